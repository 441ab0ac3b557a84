"""The specs for ImageNet: they are valid, can be planned, and run at reduced size."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
import timm
import yaml
from PIL import Image
from safetensors.torch import save_model
from timm.data import ImageNetInfo

from ttame_core.audits.specification import open_spec

ROOT = Path(__file__).parents[2]
IMAGENET = ROOT / "examples" / "imagenet.yaml"
TABLE = ROOT / "examples" / "paper_table.yaml"
# The paper's three classifiers, small and with random weights.
SMALL = {
    "vgg16": {
        "model": "tiny:small_vgg",
        "taps": ["features.8", "features.11", "features.14"],
    },
    "resnet50": {
        "model": "tiny:small_resnet",
        "taps": ["layer1.0.conv1", "layer1", "layer2"],  # each channel of the last is a pass
    },
    "vit_b_16": {"model": "tiny:small_vit"},
}


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """A folder that looks like ImageNet to the spec: lists of images with labels."""
    rng = np.random.default_rng(0)
    root = tmp_path / "imagenet"
    for split, count in (("train", 16), ("val", 6)):
        (root / split).mkdir(parents=True)
        lines = []
        for i in range(count):
            pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
            lines.append(f"{split}/{i}.png {i % 10}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_the_protocol_is_the_papers(imagenet: Path) -> None:
    audit = open_spec(TABLE, {"IMAGENET": str(imagenet)})
    assert [b.name for b in audit.backbones] == ["vgg16", "resnet50", "vit_b_16"]
    assert audit.maps.images == 2000
    assert audit.training.recipe == "paper"
    rivals = {"gradcam", "gradcam++", "scorecam", "ablationcam", "rise", "iia", "lcam_img", "tame"}
    assert {"ttame", "transformer_attribution"} | rivals <= {e.name for e in audit.explainers}
    confidence, road = audit.evaluation.metrics
    assert confidence.settings["keep"] == [100, 50, 15]
    assert road.family == "road"


@pytest.mark.long
def test_it_runs_at_reduced_size(
    ttame: Callable[..., subprocess.CompletedProcess], imagenet: Path, tmp_path: Path
) -> None:
    variables = ("--var", f"IMAGENET={imagenet}")
    planned = ttame("audit", TABLE, "--dry-run", *variables)
    assert planned.returncode == 0, planned.stderr
    assert all(name in planned.stdout for name in (*SMALL, "transformer_attribution", "lcam_img"))

    spec = yaml.safe_load(TABLE.read_text())
    view = {"input_size": [64, 64]}
    spec["backbones"] = [
        {"name": name, **small, "preprocessing": view} for name, small in SMALL.items()
    ]
    for explainer in (e for e in spec["explainers"] if isinstance(e, dict)):
        for settings in explainer.values():
            settings |= {"masks": 8} if "masks" in settings else {}
            settings.get("training", {}).update(epochs=1, batch_size=8)
    spec["training"] |= {"epochs": 1, "batch_size": 8}
    spec["maps"]["images"] = 4
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(spec))
    result = ttame(
        "audit",
        tmp_path / "small.yaml",
        *variables,
        PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}",
        TTAME_TRUST="tiny",
    )
    assert result.returncode == 0, result.stderr
    scores = f"{tmp_path}/workspace/scores/metric=confidence/*/*/*/*.parquet"
    found = duckdb.sql(
        f"SELECT DISTINCT backbone, explainer FROM read_parquet('{scores}', hive_partitioning=true)"
    ).fetchall()
    names = {e if isinstance(e, str) else next(iter(e)) for e in spec["explainers"]}
    everywhere = names - {"transformer_attribution", "tame"}
    assert set(found) >= {(b, e) for b in SMALL for e in everywhere}
    assert ("vit_b_16", "transformer_attribution") in found
    assert {(b, "tame") for b in ("vgg16", "resnet50")} <= set(found)
    refused = ttame("query", "SELECT backbone, explainer FROM refusals", "--format", "csv").stdout
    assert sorted(refused.split()[1:]) == [
        "resnet50,transformer_attribution",
        "vgg16,transformer_attribution",
        "vit_b_16,tame",
    ]


def test_the_spec_for_imagenet_names_weights_that_are_published() -> None:
    audit = open_spec(IMAGENET, {"IMAGENET": "/data/imagenet"})
    published = timm.list_pretrained()
    assert audit.backbones
    assert all(b.pretrained and b.model in published for b in audit.backbones)


@pytest.mark.long
def test_the_spec_for_imagenet_reads_its_folders_of_classes(
    ttame: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    """With a small classifier of the same 1,000 classes in the place of the published ones."""
    wnids = ImageNetInfo().label_names()
    for number, wnid in enumerate((wnids[104], wnids[0], wnids[999])):
        folder = tmp_path / "val" / wnid
        folder.mkdir(parents=True)
        for image in range(20):
            pixels = np.random.default_rng(20 * number + image).integers(0, 256, (64, 64, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{image}.png")
    spec = yaml.safe_load(IMAGENET.read_text())
    network = {"model": "resnet10t", "args": {"channels": [16, 16, 16, 32], "stem_width": 8}}
    weights = tmp_path / "weights.safetensors"
    save_model(timm.create_model("resnet10t", **network["args"]), str(weights))
    names = {"checkpoint": str(weights), "class_names": "imagenet-1k"}
    view = {"preprocessing": {"input_size": [64, 64]}}
    spec["backbones"] = [network | names | view]
    spec["explainers"] = ["ttame", "gradcam"]
    spec["training"] = {"min_steps": 2, "batch_size": 4}
    spec.setdefault("maps", {})["images"] = 12
    path = tmp_path / "imagenet.yaml"
    path.write_text(yaml.safe_dump(spec))
    done = ttame("audit", path, "--var", f"IMAGENET={tmp_path}", "--workspace", tmp_path / "lake")
    assert done.returncode == 0, done.stderr
    classes = ttame("query", "SELECT * FROM classes", "--workspace", tmp_path / "lake")
    assert all(name in classes.stdout for name in ("wallaby", "tench", "toilet tissue"))
