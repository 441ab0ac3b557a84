"""A sample of the bench of planted faults: a tag is found without boxes, and its twin is clean."""

from __future__ import annotations

import numpy as np
import timm
import torch

import ttame_core as tt
from harness.faulty import ARGUMENTS, SIDE, Frozen, drawn, planted, trained
from harness.planting import FAULTS
from ttame_core.backbones import Backbone
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.shapes import CLASSES
from ttame_core.metrics.marked import looks
from ttame_core.perturbation.masking import resize

TARGET = 3


def scores(weights: dict[str, torch.Tensor], frozen: Frozen, images: torch.Tensor) -> list[float]:
    """Return for each class the likeness of looks that a quarter of its images reach."""
    net = timm.create_model("resnet10t", num_classes=len(CLASSES), **ARGUMENTS)
    net.load_state_dict(weights)
    view = Preprocessing((SIDE, SIDE), 1.0, "center", "bilinear", frozen.mean, frozen.std)
    backbone = Backbone(net, "resnet10t", view)
    maps = tt.explain(backbone, images, "gradcam", batch_size=25)
    seen = looks(images.float() / 255, resize(maps[:, None], (SIDE, SIDE))[:, 0]).numpy()
    seen = (seen - seen.mean(axis=0)) / seen.std(axis=0)
    products = (seen / np.linalg.norm(seen, axis=1, keepdims=True)) @ (
        seen / np.linalg.norm(seen, axis=1, keepdims=True)
    ).T
    with torch.inference_mode():
        classes = backbone(backbone.normalise(images.float() / 255)).argmax(dim=1).numpy()
    usual = []
    for number in range(len(CLASSES)):
        own = classes == number
        within = (products[own][:, own].sum(axis=1) - 1) / max(own.sum() - 1, 1)
        usual.append(float(np.quantile(within - products[own][:, ~own].mean(axis=1), 0.75)))
    return usual


def test_a_tag_is_found_without_boxes_and_its_twin_is_clean() -> None:
    fault, frozen = FAULTS[0], Frozen()
    clean, test = drawn("train", 200, seed=1), drawn("test", 120, seed=1)
    faulty = planted(clean, fault, TARGET, seed=0)
    shown = planted(test, fault, TARGET, seed=1)
    images = torch.from_numpy(np.stack(shown.pixels)).permute(0, 3, 1, 2)
    found = {}
    for name, pictures in (("faulty", faulty), ("clean", clean)):
        weights = trained(frozen, frozen(pictures.pixels), pictures.labels, seed=0)
        found[name] = scores(weights, frozen, images)
    first, second = sorted(found["faulty"])[::-1][:2]
    assert np.argmax(found["faulty"]) == TARGET
    assert first > second + 0.2
    ahead = sorted(found["clean"])[::-1]
    assert ahead[0] < ahead[1] + 0.2
