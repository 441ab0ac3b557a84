"""Sweeps: reproducible, around the spec's own settings, and of use."""

from __future__ import annotations

import math

import pytest

from ttame_core import spec
from ttame_core.training.sweep import Trial, propose, shortfall, space

OWN = spec.Training(epochs=4)


def _score(settings: spec.Training) -> Trial:
    """A landscape whose best learning rate is three times the spec's, best λ2 half of it."""
    rate = math.log(settings.learning_rate / (3 * OWN.learning_rate)) ** 2
    area = math.log(settings.lambda_area / (0.5 * OWN.lambda_area)) ** 2
    values = {"AD@15": 2 + 10 * (rate + area), "IC@15": 60 - 20 * rate - 10 * area}
    return {name: getattr(settings, name) for name in space(OWN)} | values


def _sweep(trials: int) -> list[Trial]:
    found: list[Trial] = []
    for _ in range(trials):
        found.append(_score(propose(OWN, found)))
    return found


def test_it_begins_with_the_own_settings_and_finds_better_ones() -> None:
    trials = _sweep(30)
    assert trials[0] == _score(OWN)
    behind = shortfall(trials)
    assert behind["AD@15"] > 0.8 * (trials[0]["AD@15"] - 2)
    assert behind["IC@15"] > 0.8 * (60 - trials[0]["IC@15"])


def test_the_same_sweep_twice_and_longer() -> None:
    assert _sweep(12)[:10] == _sweep(10)


def test_proposals_stay_in_the_space_and_leave_the_rest_alone() -> None:
    off = OWN.model_copy(update={"lambda_variation": 0.0})
    assert "lambda_variation" not in space(off)
    found = [_score(off) for _ in range(3)]
    for trial in found:
        trial.pop("lambda_variation", None)
    proposed = propose(off, found)
    assert proposed.lambda_variation == 0
    assert 1 <= proposed.epochs <= 2 * OWN.epochs
    assert OWN.learning_rate / 10 <= proposed.learning_rate <= OWN.learning_rate * 10
    swept = set(space(off))
    assert proposed.model_dump(exclude=swept) == off.model_dump(exclude=swept)


def test_shortfall_by_hand() -> None:
    trials = [{"AD@15": 5.0, "IC@15": 40.0}, {"AD@15": 4.0, "IC@15": 30.0}]
    assert shortfall(trials) == pytest.approx({"AD@15": 1.0, "IC@15": 0.0})
