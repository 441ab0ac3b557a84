"""The paper's protocol: it is valid, can be planned, and runs at reduced size."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
import yaml
from PIL import Image

from ttame_core.audits.specification import open_spec

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "examples" / "paper_table.yaml"
# The paper's three classifiers, small and with random weights.
SMALL = {
    "vgg16": {
        "model": "tiny:small_vgg",
        "trust": True,
        "taps": ["features.8", "features.11", "features.14"],
    },
    "resnet50": {
        "model": "tiny:small_resnet",
        "trust": True,
        "taps": ["layer2", "layer3", "layer4"],
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


@pytest.mark.slow
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
        {"name": name, **small, "trust": True, "preprocessing": view}
        for name, small in SMALL.items()
    ]
    for explainer in (e for e in spec["explainers"] if isinstance(e, dict)):
        for settings in explainer.values():
            settings |= {"masks": 8} if "masks" in settings else {}
            settings.get("training", {}).update(epochs=1, batch_size=8)
    spec["training"] |= {"epochs": 1, "batch_size": 8}
    spec["maps"]["images"] = 4
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(spec))
    result = ttame(
        "audit", tmp_path / "small.yaml", *variables, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}"
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
