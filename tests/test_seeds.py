"""Seeds: one range of them everywhere, and all of it is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny import tiny_backbone

from ttame_core import spec
from ttame_core.data.shapes import draw_labels
from ttame_core.data.sources import REGISTRY as SOURCES
from ttame_core.explainers import REGISTRY
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.metrics.robustness import perturbations
from ttame_core.metrics.sanity import randomised_head
from ttame_core.seeding import seed_of_step
from ttame_core.training.head import HeadRun, smooth_noise
from ttame_core.training.sweep import propose

SECTIONS: dict[str, Callable[[int], Any]] = {
    "training": lambda seed: spec.Training(seed=seed),
    "fit": lambda seed: spec.Fit(seed=seed),
    "source": lambda seed: SOURCES["shapes"].Settings.model_validate({"seed": seed}),
    "dataset": lambda seed: spec.Dataset.model_validate(
        {"name": "d", "source": {"kind": "shapes"}, "seed": seed}
    ),
    "robustness": lambda seed: FAMILIES["robustness"]({"seed": seed}),
    "sanity": lambda seed: FAMILIES["sanity"]({"seed": seed}),
    "rise": lambda seed: REGISTRY["rise"].Settings(seed=seed),
}
LARGEST = 2**63 - 1


@pytest.mark.parametrize("section", SECTIONS)
def test_seeds_outside_their_range_are_refused_with_the_spec(section: str) -> None:
    for seed in (0, 1, 2**31, 2**32, LARGEST):
        SECTIONS[section](seed)
    for seed in (-1, 2**63, 2**64):
        with pytest.raises((ValidationError, ValueError), match=r"greater than or equal|less than"):
            SECTIONS[section](seed)


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1, LARGEST])
def test_every_seed_is_taken(seed: int) -> None:
    settings = spec.Training(seed=seed, epochs=1, noise=4.0)
    backbone = tiny_backbone()
    head = HeadRun(
        REGISTRY["ttame"](backbone), settings, 2, lambda: [torch.rand(4, 3, 64, 64)]
    ).head
    randomised_head(head.eval().fold(), seed)
    assert smooth_noise(settings, 2, 1, 100, (4, 4)) is not None
    trial = dict.fromkeys(("AD@15", "IC@15"), 1.0) | {
        name: getattr(settings, name)
        for name in ("learning_rate", "lambda_variation", "lambda_area", "lambda_confidence")
    }
    assert propose(settings, [{**trial, "epochs": 1}]).seed == seed
    perturbations(["key"], (3, 2, 2), f"{seed}/0")
    draw_labels("train", 0, seed)
    torch.Generator().manual_seed(seed_of_step(seed, 60, 100_003))


def test_ordinary_seeds_of_steps_are_what_they_were() -> None:
    assert seed_of_step(7, 12, 1_000_003) == 7 * 1_000_003 + 12
    assert seed_of_step(7, 12, bits=32) == 19
