"""Metrics against Quantus, where it is installed: it brings an OpenCV that clashes with ours."""

from __future__ import annotations

import pytest
import torch

from ttame_core.metrics import pointing_game, relative_change, sparseness, weighting_game

quantus = pytest.importorskip("quantus")
GENERATOR = torch.Generator().manual_seed(0)
MAPS = torch.rand(6, 8, 8, generator=GENERATOR)
OBJECTS = torch.rand(6, 8, 8, generator=GENERATOR) < 0.5
BATCH = {"a_batch": MAPS[:, None].numpy(), "s_batch": OBJECTS[:, None].numpy()}


def test_sparseness() -> None:
    theirs = quantus.Sparseness(disable_warnings=True).evaluate_batch(
        x_batch=None, a_batch=MAPS.numpy().copy()
    )
    assert sparseness(MAPS).tolist() == pytest.approx(list(theirs), abs=1e-5)


def test_weighting_game_is_relevance_mass_accuracy() -> None:
    theirs = quantus.RelevanceMassAccuracy(disable_warnings=True).evaluate_batch(**BATCH)
    assert weighting_game(MAPS, OBJECTS).tolist() == pytest.approx(list(theirs), abs=1e-5)


def test_pointing_game_without_tolerance() -> None:
    theirs = quantus.PointingGame(disable_warnings=True).evaluate_batch(**BATCH)
    assert pointing_game(MAPS, OBJECTS).tolist() == list(theirs)


def test_relative_change_is_what_max_sensitivity_takes_the_largest_of() -> None:
    others = MAPS.flip(0)
    for heat, other, ours in zip(MAPS, others, relative_change(MAPS, others), strict=True):
        change = quantus.norm_func.fro_norm(a=(heat - other).flatten().numpy())
        theirs = change / quantus.norm_func.fro_norm(a=heat.flatten().numpy())
        assert ours.item() == pytest.approx(theirs, abs=1e-5)
