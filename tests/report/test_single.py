"""Single pictures: what is said of them, and the names of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_backbone

import ttame_core as tt
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY
from ttame_core.report.single import class_names, explain_picture, find_class

NAMES = [f"class {i}" for i in range(10)]


@pytest.fixture
def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_it_says_what_the_tensors_say(tiny: Backbone, photo: Image.Image) -> None:
    explainers = {"gradcam": REGISTRY["gradcam"](tiny)}
    found = explain_picture("photo.png", photo, explainers, NAMES, target=4)
    pixels = tiny.preprocessing.pixels(photo)[None]
    probabilities = tiny(tiny.normalise(pixels / 255)).softmax(dim=1)[0]
    assert found.predicted == f"class {int(probabilities.argmax())}"
    assert found.probability == pytest.approx(float(probabilities.max()), rel=1e-4)
    assert found.target == "class 4"
    assert found.of_target == pytest.approx(float(probabilities[4]), rel=1e-4)
    expected = tt.explain(tiny, pixels, "gradcam", targets=torch.tensor([4]))
    assert np.allclose(found.maps["gradcam"], expected[0].numpy(), atol=1e-5)
    assert found.view.size == (64, 64)
    whole = explain_picture("photo.png", photo, explainers, NAMES)
    assert whole.target == whole.predicted
    assert whole.sentence == f"photo.png: {whole.predicted} {whole.probability:.3f}"


def test_an_explainer_without_a_map_is_said(tiny: Backbone, photo: Image.Image) -> None:
    with pytest.raises(UserError, match=r"oracle has no map of photo\.png"):
        explain_picture("photo.png", photo, {"oracle": REGISTRY["oracle"](tiny)}, NAMES)


def test_classes_by_number_name_and_part_of_a_name() -> None:
    classes = ["tabby, tabby cat", "heron", "7"]
    assert find_class("Tabby cat", classes) == 0
    assert find_class("1", classes) == 1
    assert find_class("7", classes) == 2
    with pytest.raises(UserError, match="Did you mean heron"):
        find_class("hern", classes)
    with pytest.raises(UserError, match="classes 0 to 2"):
        find_class("3", classes)


def test_names_of_pretrained_classifiers() -> None:
    net = tiny_backbone()  # of 10 classes, so that no library's names fit
    settings = spec.Backbone.model_validate("torchvision/resnet18")
    assert class_names(settings, net) == [str(i) for i in range(10)]
    net.num_classes = 1000
    assert class_names(settings, net)[0] == "tench"
    timm_settings = spec.Backbone.model_validate("resnet10t")
    assert class_names(timm_settings, net)[0].startswith("tench")
