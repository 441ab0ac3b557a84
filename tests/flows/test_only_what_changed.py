"""What an audit does again after a change, counted in images through the classifiers."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from harness.audits import audit_once
from tasks import models
from ttame_core import spec
from ttame_core.audits.specification import complete
from ttame_core.backbones import Backbone
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics.sanity import cascade

NET = {
    "model": "resnet10t",
    "args": {"channels": [8, 16, 24, 32], "stem_width": 8},
    "preprocessing": {"input_size": [64, 64]},
}
IMAGES = {"train": 16, "val": 4, "test": 12}
KEPT = 3  # percentages that `confidence` masks for, a pass each
PASSES = Counter[tuple[str, str]]
Run = Callable[..., PASSES]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An audit of grey pictures in folders. The workspaces are beside it."""
    here = tmp_path_factory.mktemp("changes")
    torch.manual_seed(0)
    for name in ("net", "other"):
        state = timm.create_model(NET["model"], num_classes=2, **NET["args"]).state_dict()
        save_file(state, here / f"{name}.safetensors")
    for split, count in IMAGES.items():
        for number in range(count):
            _picture(here / split, f"{number:02d}", 8 * number)
    return {
        "name": "changes",
        "dataset": {
            "name": "grey",
            "samples_per_shard": 4,
            "source": {"kind": "folder", "path": {s: str(here / s) for s in IMAGES}},
        },
        "backbones": [{"name": "net", "checkpoint": str(here / "net.safetensors"), **NET}],
        "explainers": ["ttame", "center"],
        "evaluation": {"metrics": ["confidence"]},
        "training": {"epochs": 1, "min_steps": 0, "batch_size": 8},
        "compute": {"device": "cpu", "batch_size": 4, "workers": 1},
    }


def _picture(folder: str | Path, name: str, grey: int) -> Path:
    place = Path(folder, "bright" if grey >= 64 else "dark", f"{name}.png")
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (64, 64), grey).save(place)
    return place


@pytest.fixture
def add_picture(start: dict[str, Any]) -> Iterator[Callable[[str], None]]:
    """Put one more picture into a split, until the test ends."""
    added = []

    def add(split: str) -> None:
        added.append(_picture(start["dataset"]["source"]["path"][split], "new", 100))

    yield add
    for path in added:
        path.unlink()


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run an audit; how many images went through each classifier at each stage."""
    passes: PASSES = Counter()
    stage = ""
    load = models.load

    def counted(*arguments: Any) -> Backbone:
        backbone = load(*arguments)

        def count(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            passes[stage, backbone.name] += len(inputs[0])

        backbone.model.register_forward_pre_hook(count)
        return backbone

    def enter(name: str) -> None:
        nonlocal stage
        stage = name

    def run(settings: dict[str, Any], workspace: Path) -> PASSES:
        passes.clear()
        models._loaded.clear()
        audit = complete(spec.AuditSpec.model_validate(settings))
        audit_once(audit, str(workspace), enter, record=False)
        return Counter(passes)

    monkeypatch.setattr(models, "load", counted)
    yield run
    models._loaded.clear()


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return {}


@pytest.fixture
def workspace(
    start: dict[str, Any], audit: Run, whole: dict[str, Any], tmp_path_factory: Any
) -> Path:
    """A copy of the workspace in which the whole audit has been done, once for all tests."""
    if not whole:
        place = tmp_path_factory.mktemp("whole") / "workspace"
        whole |= {"place": place, "passes": audit(start, place)}
    return Path(shutil.copytree(whole["place"], tmp_path_factory.mktemp("copy") / "workspace"))


def _files(workspace: Path, pattern: str) -> dict[str, tuple[int, int]]:
    """Inode and time of each file: the number of an inode that is free is given again."""
    stats = {path: path.stat() for path in workspace.glob(pattern)}
    return {str(p.relative_to(workspace)): (s.st_ino, s.st_mtime_ns) for p, s in stats.items()}


def test_the_whole_and_nothing_again(
    start: dict[str, Any], audit: Run, workspace: Path, whole: dict[str, Any]
) -> None:
    images = IMAGES["test"]
    passes = whole["passes"]
    assert passes["explain", "net"] == images  # both explainers read the one shared pass
    assert passes["evaluate", "net"] == 2 * KEPT * images
    assert passes["train", "net"] > 0
    assert audit(start, workspace) == {}


def test_lost_names_of_classes_cost_no_pass(
    start: dict[str, Any], audit: Run, workspace: Path
) -> None:
    (names,) = workspace.glob("classes/**/classes.parquet")
    rows = pq.read_table(names).to_pylist()
    names.unlink()
    assert audit(start, workspace) == {}
    assert pq.read_table(names).to_pylist() == rows


def test_a_new_backbone_costs_one_backbone(
    start: dict[str, Any], audit: Run, workspace: Path, whole: dict[str, Any]
) -> None:
    net = start["backbones"][0]
    checkpoint = net["checkpoint"].replace("net.", "other.")
    other = net | {"name": "other", "checkpoint": checkpoint}
    passes = audit(start | {"backbones": [net, other]}, workspace)
    assert passes == {(stage, "other"): count for (stage, _), count in whole["passes"].items()}


def test_a_new_explainer_costs_its_maps_and_scores(
    start: dict[str, Any], audit: Run, workspace: Path
) -> None:
    before = _files(workspace, "*/**/*.parquet")
    passes = audit(start | {"explainers": [*start["explainers"], "random"]}, workspace)
    images = IMAGES["test"]
    assert passes == {("explain", "net"): images, ("evaluate", "net"): KEPT * images}
    assert before.items() <= _files(workspace, "*/**/*.parquet").items()


def test_a_new_metric_costs_no_maps(start: dict[str, Any], audit: Run, workspace: Path) -> None:
    before = _files(workspace, "*/**/*.parquet")
    metrics = ["confidence", "shape", {"road": {"removed": [20, 50]}}]
    passes = audit(start | {"evaluation": {"metrics": metrics}}, workspace)
    # `shape` looks at the maps alone; ROAD passes an image once per order and percentage.
    assert passes == {("evaluate", "net"): 2 * 2 * 2 * IMAGES["test"]}
    assert before.items() <= _files(workspace, "*/**/*.parquet").items()


def test_other_storage_costs_maps_and_scores(
    start: dict[str, Any], audit: Run, workspace: Path
) -> None:
    passes = audit(start | {"maps": {"dtype": "uint8"}}, workspace)
    images = IMAGES["test"]
    assert passes == {("explain", "net"): images, ("evaluate", "net"): 2 * KEPT * images}
    for path in workspace.glob("maps/**/*.parquet"):
        assert "map_uint8" in pq.read_schema(path).names


def test_new_images_cost_their_shards(
    start: dict[str, Any], audit: Run, workspace: Path, add_picture: Callable[[str], None]
) -> None:
    before = _files(workspace, "maps/**/*.parquet")
    add_picture("test")
    passes = audit(start, workspace)
    index = Lake(workspace).read_table("datasets/grey/index.parquet").to_pylist()
    (shard,) = {row["shard"] for row in index if row["path"].endswith("new.png")}
    images = sum(row["shard"] == shard for row in index)
    assert 1 < images < IMAGES["test"]
    assert passes == {("explain", "net"): images, ("evaluate", "net"): 2 * KEPT * images}
    after = _files(workspace, "maps/**/*.parquet")
    assert before.keys() == after.keys()
    assert {p for p in before if after[p] != before[p]} == {p for p in before if shard in p}


def test_new_images_to_train_on_cost_the_heads_and_what_they_explain(
    start: dict[str, Any], audit: Run, workspace: Path, add_picture: Callable[[str], None]
) -> None:
    before = _files(workspace, "maps/**/*.parquet")
    add_picture("train")
    passes = audit(start, workspace)
    index = Lake(workspace).read_table("datasets/grey/index.parquet").to_pylist()
    images = sum(row["split"] == "test" for row in index)
    assert passes.pop(("train", "net")) > 0
    assert passes == {("explain", "net"): images, ("evaluate", "net"): KEPT * images}
    after = _files(workspace, "maps/**/*.parquet")
    untouched = {path for path in before if after[path] == before[path]}
    assert untouched == {path for path in before if "explainer=center" in path}


def test_a_head_that_is_given_outlives_new_images_to_train_on(
    start: dict[str, Any], audit: Run, workspace: Path, add_picture: Callable[[str], None]
) -> None:
    (head,) = workspace.glob("heads/**/head.safetensors")
    kept = shutil.copy(head, workspace.parent / "kept.safetensors")
    given = start | {"backbones": [start["backbones"][0] | {"head": str(kept)}]}
    assert ("train", "net") not in audit(given, workspace)
    add_picture("train")
    assert audit(given, workspace) == {}


def test_backbones_with_the_same_weights_keep_their_names(
    start: dict[str, Any], audit: Run, tmp_path: Path
) -> None:
    net = start["backbones"][0]
    pair = {"backbones": [net, net | {"name": "twin"}], "explainers": ["center"]}
    audit(start | pair, tmp_path)
    for stage in ("maps", "scores/metric=confidence"):
        folders = tmp_path.glob(f"{stage}/dataset=grey/backbone=*")
        assert sorted(folder.name for folder in folders) == ["backbone=net", "backbone=twin"]
    found = run_query(Lake(tmp_path), "SELECT backbone, count(*) AS n FROM maps GROUP BY ALL")
    counts = {row["backbone"]: row["n"] for row in found.to_pylist()}
    assert counts == {"net": IMAGES["test"], "twin": IMAGES["test"]}


def test_weights_are_shuffled_once_for_all_shards(
    start: dict[str, Any], audit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return cascade(*arguments)

    monkeypatch.setattr("ttame_core.metrics.sanity.cascade", counted)
    metrics = {"metrics": [{"sanity": {"depths": 2}}]}
    audit(start | {"explainers": ["gradcam"], "evaluation": metrics}, tmp_path)
    assert len(list(tmp_path.glob("scores/metric=sanity/*/*/*/*.parquet"))) > 1
    assert len(calls) == 1


def test_two_backbones_with_the_same_weights_stand_in_the_leaderboard_alike(
    start: dict[str, Any], audit: Run, tmp_path: Path
) -> None:
    """Each has its own rows, also where one is loaded right after the other."""
    (net,) = start["backbones"]
    twins = [net, {**net, "name": "twin"}]
    audit({**start, "backbones": twins, "explainers": ["center", "gradcam"]}, tmp_path / "twins")
    rows = run_query(
        Lake(tmp_path / "twins"),
        "SELECT backbone, explainer, metric, value, images FROM leaderboard "
        "WHERE metric NOT IN ('seconds') ORDER BY ALL",
    ).to_pylist()
    of: dict[str, dict[tuple[str, str, int], float]] = {"net": {}, "twin": {}}
    for row in rows:
        of[row["backbone"]][row["explainer"], row["metric"], row["images"]] = row["value"]
    assert {explainer for explainer, _, _ in of["twin"]} >= {"center", "gradcam"}
    assert of["net"] == pytest.approx(of["twin"], rel=1e-4)
