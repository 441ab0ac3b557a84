"""What is planted in pictures, labels and weights for the bench of planted faults."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.planting import FAULTS, Fault, chosen, noisy, tag

IN_PICTURES = [fault for fault in FAULTS if fault.plant]


def grey() -> tuple[np.ndarray, np.ndarray]:
    """A noisy grey picture of 64 pixels with an object in the middle."""
    pixels = np.random.default_rng(0).integers(90, 160, (64, 64, 3)).astype(np.uint8)
    objects = np.zeros((64, 64), bool)
    objects[28:36, 28:36] = True
    return pixels, objects


@pytest.mark.parametrize("fault", IN_PICTURES, ids=lambda fault: fault.name)
def test_a_fault_changes_a_copy_in_the_same_way_each_time(fault: Fault) -> None:
    pixels, objects = grey()
    before = pixels.copy()
    assert fault.plant
    changed = fault.plant(pixels, objects)
    assert (pixels == before).all()
    assert changed.shape == pixels.shape
    assert changed.dtype == np.uint8
    assert (changed != pixels).any()
    assert (changed == fault.plant(pixels, objects)).all()


@pytest.mark.parametrize("fault", IN_PICTURES, ids=lambda fault: fault.name)
def test_a_fault_with_a_place_leaves_the_object_as_it_is(fault: Fault) -> None:
    pixels, objects = grey()
    assert fault.plant
    changed = (fault.plant(pixels, objects) != pixels).any(axis=2)
    assert changed[objects].any() != bool(fault.seen)


def test_the_tag_is_a_square_of_a_fifth_of_the_side_in_the_upper_left() -> None:
    pixels, objects = grey()
    changed = (tag(pixels, objects) != pixels).any(axis=2)
    y, x = np.nonzero(changed)
    assert (y.min(), y.max(), x.min(), x.max()) == (1, 14, 1, 14)
    assert changed.sum() == 14 * 14


def test_there_are_at_least_twelve_faults_with_names_of_their_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 12
    assert all(bool(fault.plant) == (fault.where == "pictures") for fault in FAULTS)


def test_as_many_pictures_of_one_class_are_chosen_as_the_rate_says() -> None:
    labels = [0, 1] * 10
    picked = chosen(labels, 1, 0.7, seed=3)
    assert picked.sum() == 7
    assert not picked[::2].any()
    assert (picked == chosen(labels, 1, 0.7, seed=3)).all()
    assert (picked != chosen(labels, 1, 0.7, seed=4)).any()
    assert chosen(labels, 1, 1.0, seed=3)[1::2].all()


def test_half_of_the_entries_of_a_weight_become_noise_of_its_own_spread() -> None:
    weights = {"conv": torch.randn(100, 100) * 0.1 + 2, "bias": torch.ones(3)}
    changed = noisy(weights, 0.5, seed=0)
    share = (changed["conv"] != weights["conv"]).float().mean()
    assert 0.48 < share < 0.52
    assert changed["conv"].std() == pytest.approx(0.1, rel=0.05)
    assert changed["conv"].mean() == pytest.approx(2, rel=0.01)
    assert torch.equal(changed["bias"], weights["bias"])
