"""A sample of the bench of planted faults, which are found without boxes, with clean twins."""

from __future__ import annotations

from functools import cache
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
from harness.planting import FAULTS, Fault
from ttame_core.backbones import Backbone
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.shapes import CLASSES
from ttame_core.errors import UserError
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import values_of
from ttame_core.metrics.marked import looks, places
from ttame_core.stages.changing import change

TARGET = 3


def scores(backbone: Backbone, images: torch.Tensor) -> dict[str, list[float]]:
    """Return for each metric the value of each class that a quarter of its images reach."""
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


@cache
def frozen() -> Frozen:
    return Frozen(DEMO, len(CLASSES))


@cache
def backbone_of(name: str | None) -> Backbone:
    """Train a classifier with a fault, or without."""
    pictures = drawn("train", 200, seed=1)
    if name:
        pictures = planted(pictures, fault(name), TARGET, seed=0)
    net = DEMO.make(len(CLASSES))
    net.load_state_dict(trained(frozen(), frozen()(pictures.pixels), pictures.labels, seed=0))
    view = Preprocessing((DEMO.side, DEMO.side), 1.0, "center", "bilinear", DEMO.mean, DEMO.std)
    return Backbone(net, "resnet10t", view)


def fault(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


def shown(name: str) -> torch.Tensor:
    """Return pictures (N, 3, H, W) uint8 of which one class has the fault."""
    pictures = planted(drawn("test", 120, seed=1), fault(name), TARGET, seed=1)
    return torch.from_numpy(np.stack(pictures.pixels)).permute(0, 3, 1, 2)


def test_a_tag_is_found_without_boxes_and_its_twin_is_clean() -> None:
    images = shown("tag-100")
    found = {name or "clean": scores(backbone_of(name), images) for name in ("tag-100", None)}
    for metric in ("place_alike", "look_alike"):
        assert np.argmax(found["tag-100"][metric]) == TARGET
    named = {  # as report/sql/alike.sql names a class
        name: (
            max(own["place_alike"]) >= 0.35,
            max(own["look_alike"]) >= max(0.05, 5 * np.median(own["look_alike"])),
        )
        for name, own in found.items()
    }
    assert named == {"tag-100": (True, True), "clean": (False, False)}


@pytest.mark.long
def test_a_trace_of_jpeg_is_found_by_changing_pictures_and_its_twin_is_clean() -> None:
    images = dict(zip(map(str, range(100)), shown("jpeg").float() / 255, strict=False))
    least = {"jpeg": 0.25, "blur": 0.25, "noise": 0.25}  # 0.15 for others, as in changed.sql
    for name in ("jpeg", None):
        rises: dict[tuple[str, int], list[float]] = {}
        for row in change(images, backbone_of(name), batch_size=25):
            rise = row["after"] - row["before"]
            rises.setdefault((row["source"], row["target"]), []).append(rise)
        named = {
            (made, target)
            for (made, target), own in rises.items()
            if np.mean(own) >= least.get(made, 0.15)
        }
        assert named == ({("jpeg", TARGET)} if name else set())


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
