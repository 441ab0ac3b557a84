"""The marked parts of a class, pasted onto other pictures, with classifiers that read one place."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from prefect.logging import disable_run_logger
from tiny import PLAIN, shard_all
from torch import Tensor, nn

from tasks.paste import paste
from ttame_core.backbones import Backbone
from ttame_core.lake import Lake, maps_file, pasted_file
from ttame_core.lake.query.connection import connect, run_query
from ttame_core.lake.schemas import maps_schema
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.whole import CHANGES
from ttame_core.spec import AuditSpec
from ttame_core.stages.pasting import PATCHES, PICTURES, Explained, pasted
from ttame_core.stages.provenance import Provenance

CORNER, MIDDLE = (0, 0), (28, 28)  # of a square of 8 × 8 pixels
ALWAYS, NEVER = 1 / (1 + np.exp(-10)), 1 / (1 + np.exp(10))


class Reads(nn.Module):
    """Class 1 where the red of a square is above its middle, else class 0."""

    def __init__(self, place: tuple[int, int]) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        top, left = self.place
        red = x[:, 0, top : top + 8, left : left + 8].mean(dim=(1, 2)) / 2  # −1 to 1
        return torch.stack([torch.zeros_like(red), 10 * red], dim=1)


def reads(place: tuple[int, int]) -> Backbone:
    return Backbone(Reads(place), "net", PLAIN, taps=[])


@pytest.mark.parametrize(("place", "after"), [(CORNER, ALWAYS), (MIDDLE, NEVER)])
def test_a_patch_turns_pictures_only_where_the_classifier_reads_it(
    place: tuple[int, int], after: float
) -> None:
    onto = torch.zeros(3, 3, 64, 64)
    patches = torch.ones(2, 3, 64, 64)
    marks = torch.zeros(2, 64, 64, dtype=torch.bool)
    marks[0, :8, :8] = True  # the second marks nothing
    probe = Probe(reads(place), onto, torch.ones(3, dtype=torch.int64), batch_size=2)
    answers = pasted(probe, patches, marks)
    assert answers.shape == (3, 3)
    expected = torch.tensor([[NEVER, after, NEVER]], dtype=torch.float32).expand(3, 3)
    torch.testing.assert_close(answers, expected, atol=1e-6, rtol=0)


def _maps(lake: Lake, keys: dict[str, str]) -> None:
    """Maps of each picture: of class 1 those of a tag mark the corner, all others the middle."""
    for explainer in ("gradcam", "layercam"):
        rows = []
        for name, key in sorted(keys.items(), key=lambda item: item[1]):
            heat = np.zeros((8, 8), dtype=np.float16)
            heat[(slice(0, 2), slice(0, 2)) if "tag" in name else (slice(3, 5), slice(3, 5))] = 1
            label = int("other" not in name)
            row = {"key": key, "label": label, "predicted": label, "target": label}
            row |= {"probability": 0.9, "height": 8, "width": 8, "map": heat.ravel()}
            rows.append(row)
        path = maps_file("d", "net", explainer, "test-000000")
        lake.write_parquet(path, rows, maps_schema(8, 8), {})


@pytest.fixture
def tagged(tmp_path: Path) -> tuple[Lake, AuditSpec, dict[str, str]]:
    """Three pictures of class 1 with a red tag, three without, and twelve of class 0."""
    for name in (*(f"own/tag{i}" for i in range(3)), *(f"own/plain{i}" for i in range(3))):
        pixels = np.zeros((64, 64, 3), dtype=np.uint8)
        pixels[:8, :8, 0] = 255 * ("tag" in name)
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels[63, 63] = int(name[-1])  # no picture twice
        Image.fromarray(pixels).save(path)
    for i in range(12):
        path = tmp_path / f"pictures/nothing/other{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), i, dtype=np.uint8)).save(path)
    audit = AuditSpec.model_validate(
        {
            "name": "a",
            "dataset": {
                "name": "d",
                "source": {"kind": "folder", "path": str(tmp_path / "pictures")},
                "classes": ["nothing", "own"],
            },
            "backbones": [{"name": "net", "model": "resnet10t", "pretrained": True}],
            "explainers": ["gradcam", "layercam"],
            "evaluation": {"metrics": ["marked"]},
        }
    )
    lake = Lake(tmp_path / "lake")
    shard_all(audit.dataset, lake)
    index = lake.read_table("datasets/d/index.parquet").to_pylist()
    keys = {Path(row["path"]).stem: row["key"] for row in index}
    _maps(lake, keys)
    return lake, audit, keys


@pytest.mark.parametrize(("place", "after"), [(CORNER, ALWAYS), (MIDDLE, NEVER)])
def test_pictures_with_the_tag_and_without_it_are_pasted_onto_other_classes(
    tagged: tuple[Lake, AuditSpec, dict[str, str]], place: tuple[int, int], after: float
) -> None:
    lake, audit, keys = tagged
    names = ["tag0", "tag1", "tag2", "plain0", "plain1", "plain2"]
    alike = [{"class": "own", "aspect": "place", "key": keys[name]} for name in names]
    with connect(lake) as db:
        explained = Explained(lake, db, audit, reads(place))
        own, usual = explained.pastings(alike)
        rows = list(explained.paste(own))
        others = list(explained.paste(usual))
    assert (own.target, own.aspect, len(own.onto)) == (1, "place", PICTURES)
    assert all(name.startswith("other") for name, key in keys.items() if key in own.onto)
    assert len(rows) == 6 * PICTURES
    for row in rows:
        tag = row["source"] in {keys[name] for name in names[:3]}
        assert row["maps"] == ("alike" if tag else "unlike")
        assert row["before"] == pytest.approx(NEVER, abs=2e-4)
        assert row["after"] == pytest.approx(after if tag else NEVER, abs=2e-4)
    # Class 0 shows what is usual: its four pictures are pasted onto the six of class 1.
    assert (usual.target, usual.aspect, len(usual.sources)) == (0, "", PATCHES)
    assert set(usual.onto) == {keys[name] for name in names}
    assert {row["maps"] for row in others} == {"usual"}
    assert len(others) == PATCHES * 6


def test_nothing_is_pasted_where_all_pictures_are_taken_for_the_class(
    tagged: tuple[Lake, AuditSpec, dict[str, str]],
) -> None:
    lake, audit, keys = tagged
    own = {name: key for name, key in keys.items() if "other" not in name}
    _maps(lake, own)
    alike = [{"class": "own", "aspect": "look", "key": key} for key in own.values()]
    with connect(lake) as db:
        explained = Explained(lake, db, audit, reads(CORNER))
        (only,) = explained.pastings(alike)
        assert list(explained.paste(only)) == []


def test_the_task_writes_a_file_that_is_made_once(
    tagged: tuple[Lake, AuditSpec, dict[str, str]],
) -> None:
    lake, audit, keys = tagged
    own = [key for name, key in keys.items() if "other" not in name]
    alike = [{"class": "own", "aspect": "look", "key": key} for key in own]
    path, provenance = pasted_file("d", "net"), Provenance(audit, lake)
    assert path in provenance.unmade()
    assert [work.done for work in provenance.work() if work.stage == "paste"] == [False]
    for named in (alike, []):  # what is made already is not looked for again
        with (
            disable_run_logger(),
            patch("tasks.paste.alike_images", return_value=named),
            patch("tasks.paste.backbone_of", return_value=reads(CORNER)),
            patch("tasks.paste.PICTURES", 7),  # of the 18 in memory at once
        ):
            paste.fn(audit, str(lake), audit.backbones[0])
        assert path not in provenance.unmade()
        assert [work.done for work in provenance.work() if work.stage == "paste"] == [True]
        rows = run_query(lake, "FROM pasted").to_pylist()
        parts = [row for row in rows if row["aspect"] in ("place", "look", "")]
        assert len(parts) == 6 * PICTURES + 6 * PATCHES  # of the class, and of the other one
        assert {row["source"] for row in rows if row["aspect"] == "whole"} == set(CHANGES)
        normalised = [row for row in rows if row["aspect"] == "normalised"]
        labels = {key: int("other" not in name) for name, key in keys.items()}
        ways = reads(CORNER).preprocessing.others()
        assert {(r["key"], r["target"], r["source"]) for r in normalised} == {
            (key, label, way) for key, label in labels.items() for way in ways
        }
        assert len(normalised) == len(labels) * len(ways) > 0
        assert {(r["dataset"], r["backbone"], r["target"]) for r in rows} == {
            ("d", "net", 0),
            ("d", "net", 1),
        }


def test_pictures_that_are_changed_are_of_few_shards(
    tagged: tuple[Lake, AuditSpec, dict[str, str]],
) -> None:
    lake, audit, keys = tagged
    with connect(lake) as db:
        explained = Explained(lake, db, audit, reads(CORNER))
        few, all_of_them = explained.some_keys(5), explained.some_keys(100)
    assert few == all_of_them[:5]
    assert sorted(all_of_them) == sorted(keys.values())


def test_where_nothing_was_explained_nothing_is_changed(
    tagged: tuple[Lake, AuditSpec, dict[str, str]],
) -> None:
    lake, audit, _ = tagged
    _maps(lake, {})
    with (
        disable_run_logger(),
        patch("tasks.paste.alike_images", return_value=[]),
        patch("tasks.paste.backbone_of", return_value=reads(CORNER)),
    ):
        paste.fn(audit, str(lake), audit.backbones[0])
    assert run_query(lake, "FROM pasted").num_rows == 0


def test_only_audits_that_ask_for_what_maps_mark_ask_for_pastes(
    tagged: tuple[Lake, AuditSpec, dict[str, str]],
) -> None:
    lake, audit, _ = tagged
    other = audit.evaluation.model_copy(update={"metrics": []})
    without = Provenance(audit.model_copy(update={"evaluation": other}), lake)
    assert pasted_file("d", "net") not in without.unmade()
    assert "paste" not in {work.stage for work in without.work()}
