"""The loss terms, by hand."""

from __future__ import annotations

import numpy as np
import torch

from ttame_core.backbones.class_vectors import ClassVectors
from ttame_core.heads.attention import SharedHead
from ttame_core.training.losses import DistanceFromStart, area_loss, variation_loss
from ttame_core.training.objectives.confidence import Confidence, log_odds


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


def test_the_distance_from_the_start_is_that_of_all_classes_rows() -> None:
    torch.manual_seed(0)
    head = SharedHead([3, 2], ClassVectors(torch.randn(4, 6)), (2, 2))
    torch.nn.init.normal_(head.matrix)
    rows = (head.vectors(None) @ head.matrix).detach()
    distance = DistanceFromStart(head)
    assert float(distance()) == 0
    with torch.no_grad():
        head.matrix.mul_(3)
    assert np.isclose(float(distance()), 4)
    with torch.no_grad():
        head.matrix.normal_()
    moved = (head.vectors(None) @ head.matrix).detach()
    by_class = [float(((a - b) ** 2).sum()) for a, b in zip(moved, rows, strict=True)]
    assert np.isclose(float(distance()), sum(by_class) / float((rows**2).sum()))
    distance().backward()
    assert head.matrix.grad is not None


def test_of_very_many_classes_some_are_compared() -> None:
    vectors = ClassVectors(torch.randn(21_841, 4))
    head = SharedHead([3], vectors, (2, 2))
    torch.nn.init.normal_(head.matrix)
    distance = DistanceFromStart(head)
    with torch.no_grad():
        head.matrix.mul_(2)
    assert np.isclose(float(distance()), 1)
    assert distance.classes[0] == 0
    assert distance.classes[-1] == 21_840
    assert len(distance.classes.unique()) == 1024


def test_variation_is_per_image() -> None:
    maps = torch.rand(3, 5, 5)
    assert torch.isclose(variation_loss(maps), variation_loss(maps.repeat(4, 1, 1)))


def test_area_has_a_finite_gradient_at_zero() -> None:
    maps = torch.zeros(1, 4, 4, requires_grad=True)
    area_loss(maps).backward()
    assert torch.isfinite(maps.grad).all()


def test_confidence_by_hand() -> None:
    whole = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    masked = torch.tensor([[0.0, 2.0, 0.0], [0.0, 5.0, 0.0]])
    targets = torch.tensor([0, 1])
    odds = [np.exp(2) / 2, 0.5], [1 / (np.exp(2) + 1), np.exp(5) / 2]
    expected = np.mean([np.log(1 + a / b) for a, b in zip(*odds, strict=True)])
    assert np.isclose(float(Confidence().term(masked, whole, targets)), expected)


def test_confidence_is_lost_by_what_drops_alone() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    targets = logits.argmax(dim=1)
    same = float(Confidence().term(logits, logits, targets))
    assert np.isclose(same, np.log(2))
    surer = logits.scatter_add(1, targets[:, None], torch.full((50, 1), 9.0))
    assert float(Confidence().term(surer, logits, targets)) < 1e-3
    assert np.isclose(float(Confidence().term(logits, surer, targets)), 9, atol=1e-3)


def test_log_odds_where_the_softmax_is_saturated() -> None:
    logits = torch.tensor([[300.0, 0.0, 0.0]], requires_grad=True)
    found = log_odds(logits, torch.tensor([0]))
    assert np.isclose(found.item(), 300 - np.log(2))
    found.sum().backward()
    assert torch.equal(logits.grad, torch.tensor([[1.0, -0.5, -0.5]]))
