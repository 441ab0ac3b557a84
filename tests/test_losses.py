"""The loss terms, by hand."""

from __future__ import annotations

import numpy as np
import torch

from ttame_core.losses import area_loss, variation_loss


def test_area_is_the_mean_of_a_power() -> None:
    maps = torch.tensor([[[0.0, 1.0], [0.25, 0.5]]])
    expected = np.mean((np.array([0.0, 1.0, 0.25, 0.5]) + 0.0005) ** 0.3)
    assert np.isclose(float(area_loss(maps)), expected)
    assert np.isclose(float(area_loss(maps, 1.0)), 0.4375 + 0.0005)


def test_variation_by_hand() -> None:
    maps = torch.tensor([[[0.0, 1.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.2]]])
    vertical = 0.25 + 0.25 + 0.25 + 0.25 + 0.25 + 0.09
    horizontal = 1 + 1 + 0 + 0 + 0 + 0.04
    top, bottom, left, right = 1.0, 0.04, 0.25, 0.25 + 0.04
    expected = (vertical + horizontal + 0.3 * (top + bottom + left + right)) / 2
    assert np.isclose(float(variation_loss(maps)), expected)


def test_variation_is_per_image() -> None:
    maps = torch.rand(3, 5, 5)
    assert torch.isclose(variation_loss(maps), variation_loss(maps.repeat(4, 1, 1)))


def test_area_has_a_finite_gradient_at_zero() -> None:
    maps = torch.zeros(1, 4, 4, requires_grad=True)
    area_loss(maps).backward()
    assert torch.isfinite(maps.grad).all()
