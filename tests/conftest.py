"""Small pictures, shards and classifiers that many tests use."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

os.environ["DO_NOT_TRACK"] = "1"

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.sharding import finish_dataset, plan_shards, write_shard
from ttame_core.lake import Lake

torch.set_num_threads(2)

PLAIN = Preprocessing((64, 64), 1.0, "center", "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def jpeg(size: tuple[int, int] = (40, 30), colour: str = "red", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def shard_all(dataset: spec.Dataset, lake: Lake) -> list[bool]:
    """The whole of `ttame shard`; which shards were written."""
    plan = plan_shards(dataset, lake)
    written = [write_shard(dataset, lake, plan, name) for name in plan.shards]
    finish_dataset(dataset, lake, plan)
    return written


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, str]:
    """A lake with a small drawn data set: 40, 8 and 12 pictures of 64 pixels."""
    lake = Lake(tmp_path_factory.mktemp("drawn"))
    source = {"kind": "shapes", "train": 40, "val": 8, "test": 12, "size": 64}
    shard_all(spec.Dataset(name="drawn", source=source, samples_per_shard=16), lake)
    return lake, "drawn"


def tiny_backbone(model: str = "resnet10t", **arguments: object) -> Backbone:
    """A classifier with random weights that takes 64×64 pixels."""
    torch.manual_seed(0)
    if model == "resnet10t":
        arguments = {"channels": (8, 16, 24, 32), "stem_width": 8} | arguments
    net = timm.create_model(model, num_classes=10, **arguments)
    return Backbone(net, model, PLAIN)


TINY_VIT = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    return tiny_backbone()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder of two classes, with awkward names."""
    for name in (
        "cats/a b.jpg",
        "cats/ñandú.JPG",
        "cats/same.png",
        "dogs/same.jpg",
        "dogs/x.y.jpeg",
    ):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (40, 30), (len(name) * 5, 100, 50))
        image.save(path, "PNG" if name.endswith("png") else "JPEG")
    return tmp_path / "images"
