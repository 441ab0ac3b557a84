"""A sample of the bench of planted faults: a tag is found without boxes, and its twin is clean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import ttame_core as tt
from harness.faulty import (
    DEMO,
    OF_CLASS,
    SHORTENED,
    Frozen,
    Photographs,
    class_folders,
    drawn,
    planted,
    trained,
)
from harness.planting import FAULTS
from ttame_core.backbones import Backbone
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.shapes import CLASSES
from ttame_core.errors import UserError
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import values_of
from ttame_core.metrics.marked import looks, places

TARGET = 3


def scores(
    weights: dict[str, torch.Tensor], frozen: Frozen, images: torch.Tensor
) -> dict[str, list[float]]:
    """Return for each metric the value of each class that a quarter of its images reach."""
    net = DEMO.make(len(CLASSES))
    net.load_state_dict(weights)
    view = Preprocessing((DEMO.side, DEMO.side), 1.0, "center", "bilinear", DEMO.mean, DEMO.std)
    backbone = Backbone(net, "resnet10t", view)
    maps = tt.explain(backbone, images, "gradcam", batch_size=25)
    with torch.inference_mode():
        classes = backbone(backbone.normalise(images.float() / 255)).argmax(dim=1).tolist()
    columns = zip(classes, places(maps).tolist(), looks(images.float() / 255).tolist(), strict=True)
    rows = [
        {"key": str(i), "label": c, "predicted": c, "target": c, "place": place, "look": look}
        for i, (c, place, look) in enumerate(columns)
    ]
    values = values_of({"marked": pa.Table.from_pylist(rows, schema=schema_of("marked"))})
    usual: dict[str, list[float]] = {}
    for metric in ("place_alike", "look_alike"):
        own = {key: value for key, name, value in values if name == metric}
        usual[metric] = [
            np.quantile([own[str(i)] for i, c in enumerate(classes) if c == number], 0.75)
            for number in range(len(CLASSES))
        ]
    return usual


def test_a_tag_is_found_without_boxes_and_its_twin_is_clean() -> None:
    fault, frozen = FAULTS[0], Frozen(DEMO, len(CLASSES))
    clean, test = drawn("train", 200, seed=1), drawn("test", 120, seed=1)
    faulty = planted(clean, fault, TARGET, seed=0)
    shown = planted(test, fault, TARGET, seed=1)
    images = torch.from_numpy(np.stack(shown.pixels)).permute(0, 3, 1, 2)
    found = {}
    for name, pictures in (("faulty", faulty), ("clean", clean)):
        weights = trained(frozen, frozen(pictures.pixels), pictures.labels, seed=0)
        found[name] = scores(weights, frozen, images)
    for metric in ("place_alike", "look_alike"):
        assert np.argmax(found["faulty"][metric]) == TARGET
    named = {  # as report/sql/alike.sql names a class
        name: (
            max(own["place_alike"]) >= 0.35,
            max(own["look_alike"]) >= max(0.05, 5 * np.median(own["look_alike"])),
        )
        for name, own in found.items()
    }
    assert named == {"faulty": (True, True), "clean": (False, False)}


def photographs(folder: Path, each: int) -> Path:
    """Write class folders of pictures that are wider than high and of one colour each."""
    for name in ("n01440764", "raccoon"):
        own = folder / "images" / "train" / name
        own.mkdir(parents=True)
        for number in range(each):
            colour = (number % 256, number // 256, 100 if name == "raccoon" else 200)
            Image.new("RGB", (20, 10), colour).save(own / f"{number}.png")
    return folder


def test_class_folders_with_identifiers_of_imagenet_have_the_names_of_its_classes(
    tmp_path: Path,
) -> None:
    found = class_folders(photographs(tmp_path, 3))
    assert {name: len(paths) for name, paths in found.items()} == {"tench": 3, "raccoon": 3}


def test_a_halved_class_of_photographs_has_others_in_each_half_split_and_seed(
    tmp_path: Path,
) -> None:
    size = sum(OF_CLASS.values())
    ground = Photographs(photographs(tmp_path, 4 * size))
    assert ground.classes(0) == ["tench", "raccoon", "raccoon B"]
    assert ground.classes(1) == ["tench", "raccoon", "tench B"]
    seen: list[tuple[int, ...]] = []
    for seed in range(2):
        for split, count in OF_CLASS.items():
            pictures = ground.pictures(split, seed)
            assert np.bincount(pictures.labels).tolist() == [count] * 3
            assert {p.shape for p in pictures.pixels} == {(SHORTENED.side, SHORTENED.side, 3)}
            seen += [tuple(p[0, 0].tolist()) for p in pictures.pixels]
    assert len(set(seen)) == len(seen) == 2 * 3 * size
    with pytest.raises(UserError, match="too few"):
        ground.pictures("train", 2)
