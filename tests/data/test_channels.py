"""Pictures of one channel, of more than three and of more than 8 bits, from the file to scores."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import jpeg, shard_all

from ttame_core import spec
from ttame_core.backbones import Backbone, load_backbone
from ttame_core.data.images import (
    BrokenImage,
    decode_channels,
    decode_image,
    examine,
    render_image,
    stored,
)
from ttame_core.data.index import load_shards
from ttame_core.data.loader import Batch, load_batches
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, forward_pass
from ttame_core.lake import Lake
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.metrics.base import MappedImages
from ttame_core.perturbation.imputation import impute
from ttame_core.perturbation.masking import min_max
from ttame_core.report.single import explain_picture, read_picture

VALUES = np.arange(5 * 60 * 70).reshape(60, 70, 5) % 997 / 996  # (H, W, C) in [0, 1]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pages(array: np.ndarray) -> bytes:
    first, *more = [
        Image.fromarray(np.ascontiguousarray(part)) for part in np.moveaxis(array, 2, 0)
    ]
    return file(first, "TIFF", save_all=True, append_images=more)


BYTES, WORDS = (VALUES * 255).astype(np.uint8), (VALUES * 65535).astype(np.uint16)
FILES = {
    "grey": (file(Image.fromarray(BYTES[..., 0]), "PNG"), BYTES[..., :1] / 255),
    "16 bits": (file(Image.fromarray(WORDS[..., 0]), "PNG"), WORDS[..., :1] / 65535),
    "transparent": (file(Image.fromarray(BYTES[..., :4], "RGBA"), "PNG"), BYTES[..., :4] / 255),
    "pages": (pages(BYTES), BYTES / 255),
    "pages of 16 bits": (pages(WORDS), WORDS / 65535),
    "array": (npy(WORDS), WORDS / 65535),
    "array of channels": (npy(np.moveaxis(VALUES, 2, 0)), VALUES),
    "flat array": (npy(BYTES[..., 0]), BYTES[..., :1] / 255),
    "array of another byte order": (npy(WORDS.astype(">u2")), WORDS / 65535),
}


@pytest.mark.parametrize("kind", FILES)
def test_channels_are_read_as_they_are_stored(kind: str) -> None:
    data, expected = FILES[kind]
    channels = decode_channels(data, kind, expected.shape[2])
    assert np.allclose(np.stack([np.asarray(c) for c in channels], 2), expected, atol=1e-6)
    assert stored(data, kind) == ((70, 60), 1)
    shown = render_image(data, kind)
    assert (shown.mode, shown.size, examine(data, kind).size) == ("RGB", (70, 60), (70, 60))


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(BrokenImage, match="has 3 channels, and the classifier takes 4"):
        decode_channels(jpeg(), "a", 4)
    with pytest.raises(BrokenImage, match="has 5 channels, and the classifier takes 1"):
        decode_channels(npy(VALUES), "a", 1)
    with pytest.raises(BrokenImage, match="has 5 channels, and is read as RGB"):
        decode_image(npy(VALUES), "a")
    (grey,) = decode_channels(jpeg(colour="red"), "a", 1)
    assert np.allclose(np.asarray(grey), 76 / 255, atol=0.02)  # 0.299 of red


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(VALUES * 300), "from 0 to 300: save numbers of 8 or 16 bits"),
        (npy(VALUES - 0.5), "from -0.5 to 0.5"),
        (npy(np.full((20, 20), np.nan)), "from nan to nan"),
        (npy((VALUES * 9).astype(np.int64)), "its values are int64"),
        (file(Image.fromarray((VALUES[..., 0] - 0.5).astype(np.float32)), "TIFF"), "from -0.5 to"),
        (file(Image.fromarray((VALUES[..., 0] * 1e6).astype(np.int32)), "TIFF"), "to 1e.06: save"),
        (npy(np.zeros(768)), r"\(768,\) is no picture"),
        (npy(np.zeros((9, 900))), "one side is more than 50 times"),
        (npy(VALUES)[:5000], "truncated"),
        (npy(np.array([[{"a": 1}]])), "Object arrays"),
    ],
    ids=[
        "large",
        "negative",
        "nan",
        "integers",
        "below black",
        "above white",
        "vector",
        "strip",
        "cut",
        "objects",
    ],
)
def test_arrays_that_are_no_pictures(data: bytes, words: str) -> None:
    for read in (decode_channels, decode_image, examine):
        with pytest.raises(BrokenImage, match=words):
            read(data, "a")


def test_a_picture_that_no_jpeg_holds_stays_as_it_is() -> None:
    for kind in ("16 bits", "pages", "array"):
        assert examine(FILES[kind][0], kind, max_size=30).smaller is None
    assert examine(FILES["grey"][0], "grey", max_size=30).smaller_size == (30, 26)


def _backbone(channels: int) -> Backbone:
    torch.manual_seed(0)
    mean = [0.1 * (1 + channel) for channel in range(channels)]
    return load_backbone(
        spec.Backbone.model_validate(
            {
                "model": "resnet10t",
                "pretrained": False,
                "args": {
                    "in_chans": channels,
                    "num_classes": 4,
                    "channels": [8, 16, 24, 32],
                    "stem_width": 8,
                },
                "fit": {},
                "preprocessing": {"input_size": [64, 64], "mean": mean, "std": [0.5] * channels},
            }
        )
    )


def _batch(here: Path, channels: int, backbone: Backbone) -> Batch:
    """Two pictures, of which one is a file of pages or of 16 bits, and one an array."""
    folder = here / "images"
    folder.mkdir()
    flat = file(Image.fromarray(WORDS[..., 0]), "TIFF")
    (folder / "a.tif").write_bytes(flat if channels == 1 else pages(BYTES))
    (folder / "b.npy").write_bytes(npy(WORDS[..., :channels]))
    lake = Lake(here / "lake")
    source = {"kind": "folder", "path": str(folder)}
    shard_all(spec.Dataset(name="d", source=source, splits={"test": 1.0}), lake)
    assert lake.read_table("datasets/d/rejected.parquet").num_rows == 0
    names = [shard.shard for shard in load_shards(lake, "d")]
    (batch,) = load_batches(lake, "d", names, backbone.preprocessing, 8, 1)
    return batch


@pytest.mark.parametrize("channels", [1, 5])
def test_maps_and_scores_of_other_channels(tmp_path: Path, channels: int) -> None:
    backbone = _backbone(channels)
    assert backbone.preprocessing.shape == (channels, 64, 64)
    batch = _batch(tmp_path, channels, backbone)
    assert batch.images.shape == (2, channels, 64, 64)
    assert (batch.images[0] - batch.images[1]).abs().max() < 0.005  # 8 bits beside 16
    forward = forward_pass(backbone, batch)
    targets = forward.logits.argmax(dim=1, keepdim=True)
    for name in ("gradcam", "scorecam", "rise", "integrated_gradients", "occlusion"):
        explainer = REGISTRY[name](backbone, {"masks": 64} if name == "rise" else {})
        maps = min_max(explainer.attribute(forward, targets))[:, 0].float()
        assert maps.isfinite().all()
    chances = forward.logits.softmax(dim=1).amax(dim=1).tolist()
    rows = [
        {"key": key, "label": None, "predicted": int(t), "target": int(t), "probability": p}
        for key, t, p in zip(batch.keys, targets, chances, strict=True)
    ]
    mapped = MappedImages(
        rows, torch.arange(2), maps.detach(), batch, batch.images, backbone, 8, lambda model: None
    )
    for family in ("confidence", "road", "curves", "shape"):
        assert len(FAMILIES[family]().score(mapped)) >= 2


@pytest.mark.parametrize(("channels", "kind"), [(1, "16 bits"), (5, "pages"), (5, "array")])
def test_a_single_picture_is_read_as_an_audit_reads_it(
    tmp_path: Path, channels: int, kind: str
) -> None:
    backbone = _backbone(channels)
    data = FILES[kind][0]
    (tmp_path / kind).write_bytes(data)
    photo = read_picture(str(tmp_path / kind), channels)
    found = explain_picture(kind, photo, {"gradcam": REGISTRY["gradcam"](backbone)}, "abcd")
    pixels = backbone.preprocessing.pixels(decode_channels(data, kind, channels))[None]
    with torch.no_grad():
        logits = backbone(backbone.normalise(pixels))[0]
    assert found.probability == pytest.approx(float(logits.softmax(0).max()), rel=1e-4)
    assert (found.view.mode, found.view.size) == ("RGB", (64, 64))
    with pytest.raises(UserError, match=f"has {channels} channels, and the classifier takes 4"):
        read_picture(str(tmp_path / kind), 4)


def test_channels_are_imputed_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    removed = torch.rand(2, 16, 16, generator=generator) < 0.5
    expected = impute(images, removed)
    five = torch.cat([images, images[:, :2]], dim=1)
    assert torch.equal(impute(five, removed), torch.cat([expected, expected[:, :2]], dim=1))
    assert torch.equal(impute(images[:, 1:2], removed), expected[:, 1:2])


def test_the_numbers_of_a_preprocessing_must_be_those_of_the_channels() -> None:
    section = {"model": "resnet10t", "fit": {}, "args": {"in_chans": 1, "num_classes": 4}}
    with pytest.raises(UserError, match="takes images of 1 channels: give it `preprocessing`"):
        load_backbone(spec.Backbone.model_validate(section))


def test_border_padding_has_the_mean_of_its_channel() -> None:
    view = _backbone(5).preprocessing
    padded = replace(view, crop_mode="border")
    pixels = padded.pixels(decode_channels(npy(np.ones((64, 32, 5), np.float32)), "a", 5))
    assert torch.allclose(pixels[:, 0, 0], torch.tensor(view.mean))
