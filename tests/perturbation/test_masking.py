"""Normalised, thresholded and applied maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny import PLAIN

from ttame_core.perturbation.masking import (
    BLUR_SIGMA,
    fill,
    filled,
    keep_most_relevant,
    masked,
    masked_both_ways,
    min_max,
    ranks,
)

maps = hnp.arrays(np.float32, (2, 5, 7), elements=st.floats(-4, 4, width=32, allow_subnormal=False))


@settings(deadline=None)
@given(maps)
def test_min_max_spans_zero_to_one_or_is_flat(array: np.ndarray) -> None:
    found = min_max(torch.from_numpy(array))
    for before, after in zip(array, found.numpy(), strict=True):
        if before.max() > before.min():
            assert (after.min(), after.max()) == (0, 1)
            assert np.array_equal(before.argsort(axis=None)[:1], after.argsort(axis=None)[:1])
        else:
            assert not after.any()


@settings(deadline=None)
@given(maps, st.lists(st.floats(1, 100), min_size=1, max_size=3))
def test_kept_pixels_are_those_above_numpys_percentile(array: np.ndarray, keep: list) -> None:
    found = keep_most_relevant(torch.from_numpy(array), keep).numpy()
    for image, variants in zip(array, found, strict=True):
        for percentage, variant in zip(keep, variants, strict=True):
            level = np.percentile(image.astype(np.float64), 100 - percentage)
            clear = np.abs(image - level) > 1e-5  # at the level itself, rounding decides
            expected = np.where(image >= level, image, 0)
            assert np.array_equal(variant[clear], expected[clear])


def test_all_is_kept_at_100_percent() -> None:
    array = torch.rand(2, 6, 6)
    assert torch.equal(keep_most_relevant(array, [100.0])[:, 0], array)


def test_masking_before_and_after_normalisation() -> None:
    images, attention = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 4, 4)
    mask = torch.nn.functional.interpolate(attention, size=8, mode="bilinear")
    raw = masked(images, attention, "raw", PLAIN.normalise)
    assert torch.allclose(raw, (images * mask - 0.5) / 0.25, atol=1e-6)
    after = masked(images, attention, "normalised", PLAIN.normalise)
    assert torch.allclose(after, (images - 0.5) / 0.25 * mask, atol=1e-6)


def test_half_of_a_batch_is_masked_as_the_metrics_do() -> None:
    torch.manual_seed(0)
    images = torch.rand(5, 3, 64, 64)
    class_maps = torch.randn(5, 1, 16, 16, requires_grad=True)
    found = masked_both_ways(images, class_maps, PLAIN.normalise)
    attention = torch.sigmoid(class_maps[:2])
    assert torch.allclose(found[:2], masked(images[:2], attention, "raw", PLAIN.normalise))
    maps = torch.nn.functional.interpolate(min_max(class_maps[2:]), size=64, mode="bilinear")
    share = [0.1 + 0.4 * place for place in (1 / 6, 3 / 6, 5 / 6)]
    weights = ((found[2:] * 0.25 + 0.5) / images[2:]).mean(dim=1).detach()
    for one, weight, kept in zip(maps[:, 0].detach(), weights, share, strict=True):
        level = one.flatten().quantile(1 - kept)
        inside, outside = one > level + 0.2, one < level - 0.2
        assert inside.any()
        assert (weight[inside] / one[inside] > 0.95).all()
        assert (weight[outside] < 0.02).all()
        assert abs((weight > one / 2).float().mean() - kept) < 0.06
    found.square().sum().backward()
    assert (class_maps.grad.flatten(1).abs().sum(dim=1) > 0).all()


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 4, 5), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0])))
def test_ranks_are_places_in_descending_order(array: np.ndarray) -> None:
    found = ranks(torch.from_numpy(array)).numpy()
    for image, places in zip(array, found, strict=True):
        order = sorted(range(20), key=lambda pixel: (-image.flat[pixel], pixel))
        assert [places.flat[pixel] for pixel in order] == list(range(20))


def test_fills_by_hand() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 40, 24)
    assert not fill(images, "zero").any()
    mean = fill(images, "mean")
    assert torch.allclose(mean[1, 2], images[1, 2].mean().expand(40, 24))
    blurred = fill(images, "blur")
    assert blurred.shape == images.shape
    assert images.amin() <= blurred.amin() < blurred.amax() <= images.amax()
    flat = torch.full((1, 3, 40, 24), 0.3)
    assert torch.allclose(fill(flat, "blur"), flat)
    rows, columns = np.indices((40, 24))
    weights = np.exp(
        -(((rows - 7) / (BLUR_SIGMA * 40)) ** 2 + ((columns - 20) / (BLUR_SIGMA * 24)) ** 2) / 2
    )
    expected = (images[0, 1].numpy() * weights).sum() / weights.sum()
    assert np.isclose(blurred[0, 1, 7, 20], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["zero", "mean", "blur"])
def test_the_fill_shows_where_the_map_does_not(kind: str) -> None:
    images, maps = torch.rand(2, 3, 16, 16), torch.rand(2, 4, 16, 16)
    maps[:, 0], maps[:, 1] = 1, 0
    found = filled(images, maps, kind)
    assert torch.allclose(found[:, 0], images)
    assert torch.allclose(found[:, 1], fill(images, kind))
    m = maps[0, 2]
    assert torch.allclose(found[0, 2], images[0] * m + fill(images, kind)[0] * (1 - m), atol=1e-6)
