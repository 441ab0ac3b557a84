"""Insertion and deletion against a slow version, one variant at a time in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_backbone

from ttame_core.backbones import Backbone
from ttame_core.metrics.curves import area_under, curve_probabilities
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.masking import fill, ranks


def _slowly(
    backbone: Backbone,
    image: np.ndarray,
    heat: np.ndarray,
    target: int,
    curve: str,
    baseline: np.ndarray,
    steps: int,
) -> np.ndarray:
    order = sorted(range(heat.size), key=lambda place: (-heat.flat[place], place))
    start, end = (baseline, image) if curve == "insertion" else (image, baseline)
    found = []
    for step in range(steps + 1):
        variant = start.reshape(3, -1).copy()
        for rank, place in enumerate(order):
            if rank * steps < step * heat.size:
                variant[:, place] = end.reshape(3, -1)[:, place]
        inputs = torch.from_numpy((variant.reshape(1, *image.shape) - 0.5) / 0.25).float()
        with torch.no_grad():
            found.append(backbone.model(inputs).softmax(dim=1)[0, target].item())
    return np.array(found)


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur"])
@pytest.mark.parametrize("curve", ["insertion", "deletion"])
def test_curves_one_variant_at_a_time(curve: str, baseline: str) -> None:
    backbone = tiny_backbone()
    torch.manual_seed(0)
    images, maps = torch.rand(2, 3, 64, 64), torch.randint(0, 50, (2, 64, 64)).float()
    targets = torch.tensor([3, 7])
    found = curve_probabilities(
        Probe(backbone, images, targets, 5), ranks(maps), curve, baseline, steps=7
    )
    substrate = fill(images, baseline)
    for i in range(2):
        expected = _slowly(
            backbone,
            images[i].numpy(),
            maps[i].numpy(),
            int(targets[i]),
            curve,
            substrate[i].numpy(),
            7,
        )
        assert np.allclose(found[i], expected, atol=1e-5)
        area = area_under(found)[i].item()
        assert np.isclose(area, np.mean((expected[1:] + expected[:-1]) / 2), atol=1e-5)


def test_areas_by_hand() -> None:
    curves = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert area_under(curves).tolist() == [0.5, 1.0]
    assert torch.isclose(area_under(torch.tensor([[0.0, 0.5, 0.0]])), torch.tensor(0.25)).all()


def test_ends_are_the_image_and_the_baseline() -> None:
    backbone = tiny_backbone()
    images, targets = torch.rand(3, 3, 64, 64), torch.tensor([0, 1, 2])
    relevance = ranks(torch.rand(3, 64, 64))
    probe = Probe(backbone, images, targets, 16)
    ends = {}
    for curve in ("insertion", "deletion"):
        found = curve_probabilities(probe, relevance, curve, "blur", 4)
        ends[curve] = found[:, 0], found[:, -1]
    with torch.no_grad():
        whole = backbone(backbone.normalise(images)).softmax(dim=1)
    p = whole.gather(1, targets[:, None])[:, 0]
    assert torch.allclose(ends["insertion"][1], p, atol=1e-5)
    assert torch.allclose(ends["deletion"][0], p, atol=1e-5)
    assert torch.allclose(ends["insertion"][0], ends["deletion"][1], atol=1e-5)


def test_the_same_map_has_the_same_curve_in_any_batch() -> None:
    backbone = tiny_backbone()
    images, heat = torch.rand(1, 3, 64, 64), torch.rand(1, 64, 64)
    many = Probe(backbone, images.expand(4, -1, -1, -1), torch.full((4,), 5), 3)
    found = curve_probabilities(many, ranks(heat.expand(4, -1, -1)), "insertion", "zero", 6)
    one = Probe(backbone, images, torch.tensor([5]), 64)
    alone = curve_probabilities(one, ranks(heat), "insertion", "zero", 6)
    assert torch.allclose(found, alone.expand(4, -1), atol=1e-5)
