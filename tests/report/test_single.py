"""Single pictures: what is said of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ttame_core as tt
from ttame_core.backbones import Backbone
from ttame_core.data import decoding
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY
from ttame_core.report.single import Photo, explain_picture, read_picture

NAMES = [f"class {i}" for i in range(10)]


@pytest.fixture
def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_it_says_what_the_tensors_say(tiny: Backbone, photo: Image.Image) -> None:
    explainers = {"gradcam": REGISTRY["gradcam"](tiny)}
    found = explain_picture("photo.png", Photo(photo, photo), explainers, NAMES, target=4)
    pixels = tiny.preprocessing.pixels(photo)[None]
    probabilities = tiny(tiny.normalise(pixels / 255)).softmax(dim=1)[0]
    assert found.predicted == f"class {int(probabilities.argmax())}"
    assert found.probability == pytest.approx(float(probabilities.max()), rel=1e-4)
    assert found.target == "class 4"
    assert found.of_target == pytest.approx(float(probabilities[4]), rel=1e-4)
    expected = tt.explain(tiny, pixels, "gradcam", targets=torch.tensor([4]))
    assert np.allclose(found.maps["gradcam"], expected[0].numpy(), atol=1e-5)
    assert found.view.size == (64, 64)
    whole = explain_picture("photo.png", Photo(photo, photo), explainers, NAMES)
    assert whole.target == whole.predicted
    assert whole.sentence == f"photo.png: {whole.predicted} {whole.probability:.3f}"


def test_an_explainer_without_a_map_is_said(tiny: Backbone, photo: Image.Image) -> None:
    with pytest.raises(UserError, match=r"oracle has no map of photo\.png"):
        explain_picture(
            "photo.png", Photo(photo, photo), {"oracle": REGISTRY["oracle"](tiny)}, NAMES
        )


def test_a_picture_that_would_take_all_memory_or_has_no_end_is_refused(
    photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo.save(tmp_path / "photo.png")
    assert np.array_equal(read_picture(str(tmp_path / "photo.png")).shown, photo)
    os.mkfifo(tmp_path / "pipe.png")
    for path in ("/dev/zero", str(tmp_path / "pipe.png")):
        with pytest.raises(UserError, match=f"{path} cannot be read: it is no plain file"):
            read_picture(path)
    Image.new("L", (13_000, 13_000)).save(tmp_path / "large.png")
    monkeypatch.setattr(decoding, "MEMORY", 2**28)
    monkeypatch.setattr(decoding, "SECONDS", 0.2)
    with pytest.raises(UserError, match=r"large\.png cannot be read: decoding it takes more than"):
        read_picture(str(tmp_path / "large.png"))
