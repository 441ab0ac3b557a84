"""Classifiers of five kinds in one audit, over pictures with labels and over pictures without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from audited import run_alone
from PIL import Image
from safetensors.torch import save_file
from texts_and_images import SIDE, save
from torchvision.models import mobilenet_v3_small

from ttame_core.audits.specification import open_spec
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query

transformers = pytest.importorskip("transformers")

NAMES = ["cat", "dog", "owl"]
LABELS = ["cat", "owl", "dog;owl", "dog", "owl", "cat;dog"]
RESNET = {"channels": [8, 16, 24, 32], "stem_width": 8}


def _zoo(folder: Path) -> list[dict[str, Any]]:
    """Small untrained classifiers, each with an order of classes of its own."""
    torch.manual_seed(0)
    for name, classes in (("timm", 3), ("several", 4)):
        net = timm.create_model("resnet10t", num_classes=classes, **RESNET)
        save_file(net.state_dict(), folder / f"{name}.safetensors")
    torch.save(mobilenet_v3_small(num_classes=3).state_dict(), folder / "torchvision.pt")
    config = transformers.ViTConfig(
        **SIDE, image_size=64, patch_size=16, id2label=dict(enumerate(["owl", "cat", "dog"]))
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder / "huggingface")
    size = {"height": 64, "width": 64}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder / "huggingface")
    save(folder / "clip", "clip")
    small = {"preprocessing": {"input_size": [64, 64]}}
    resnet = {"model": "resnet10t", "args": RESNET, **small}
    return [
        {**resnet, "name": "timm", "checkpoint": f"{folder}/timm.safetensors",
         "class_names": NAMES},
        {"model": "torchvision/mobilenet_v3_small", "name": "torchvision", "num_classes": 3,
         "checkpoint": f"{folder}/torchvision.pt", "class_names": ["dog", "owl", "cat"], **small},
        {"model": f"{folder}/huggingface", "name": "huggingface"},
        {"model": f"{folder}/clip", "name": "clip", "prompts": NAMES, "template": "a small {}"},
        {**resnet, "name": "several", "checkpoint": f"{folder}/several.safetensors",
         "class_names": ["fish", "owl", "dog", "cat"], "outputs": "sigmoid"},
    ]  # fmt: skip


def _pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name, column in (("labelled", ",label"), ("unlabelled", "")):
        rows = [f"path{column}"]
        (folder / name).mkdir()
        for number, label in enumerate(LABELS):
            pixels = generator.integers(0, 256, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
            rows.append(f"{number}.png,{label}" if column else f"{number}.png")
        (folder / name / "list.csv").write_text("\n".join(rows) + "\n")


def test_five_kinds_of_classifiers_over_two_sets_of_pictures(tmp_path: Path) -> None:
    _pictures(tmp_path)
    audit = {
        "name": "zoo-${SET}",
        "dataset": {
            "name": "${SET}",
            "source": {"kind": "manifest", "path": "${here}/${SET}/list.csv"},
            "splits": {"test": 1.0},
        },
        "backbones": _zoo(tmp_path),
        "explainers": ["gradcam", "random"],
        "evaluation": {"metrics": ["confidence"]},
        "compute": {"device": "cpu", "batch_size": 8, "workers": 1},
    }
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(audit))
    lake = Lake(tmp_path / "lake")
    for name in ("labelled", "unlabelled"):
        record = run_alone(open_spec(tmp_path / "zoo.yaml", {"SET": name}), lake)
        page = lake.read_bytes(f"{record}/report.html").decode()
        assert "class 0" not in page
        assert {known for known in NAMES if known in page} == set(NAMES)
    rows = run_query(lake, "FROM predictions").to_pylist()
    assert len(rows) == 2 * 5 * len(LABELS)
    assert {row["predicted_class"] for row in rows} <= {*NAMES, "fish"}
    assert {row["class"] for row in rows if row["dataset"] == "unlabelled"} == {None}
    firsts = {label.split(";")[0] for label in LABELS}
    assert {row["class"] for row in rows if row["dataset"] == "labelled"} == firsts
    named = run_query(
        lake, "SELECT backbone, list(name ORDER BY number) AS names FROM classes "
        "WHERE dataset = 'labelled' AND number IS NOT NULL GROUP BY backbone"
    ).to_pylist()  # fmt: skip
    assert {row["backbone"]: row["names"] for row in named} == {
        "timm": NAMES,
        "torchvision": ["dog", "owl", "cat"],
        "huggingface": ["owl", "cat", "dog"],
        "clip": NAMES,
        "several": ["fish", "owl", "dog", "cat"],
    }
    accuracies = run_query(
        lake, "SELECT dataset, backbone, value FROM leaderboard WHERE metric = 'accuracy'"
    ).to_pylist()
    assert {row["backbone"] for row in accuracies if row["dataset"] == "labelled"} == {
        b["name"] for b in audit["backbones"]
    }
    truth = dict(enumerate(LABELS))
    samples = run_query(lake, "SELECT key, path FROM samples WHERE dataset = 'labelled'")
    numbers = {row["key"]: int(row["path"].split(".")[0]) for row in samples.to_pylist()}
    for row in accuracies:
        if row["dataset"] == "unlabelled":
            assert row["value"] is None
            continue
        own = [r for r in rows if (r["dataset"], r["backbone"]) == ("labelled", row["backbone"])]
        right = [r["predicted_class"] in truth[numbers[r["key"]]].split(";") for r in own]
        assert row["value"] == pytest.approx(100 * sum(right) / len(right))
