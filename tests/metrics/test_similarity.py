"""Likeness of maps against scipy, a loop over windows, and scikit-image where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from ttame_core.metrics import pearson, spearman, ssim

heights = st.integers(0, 5).map(lambda i: np.float32(i / 5))  # with ties
pairs = hnp.arrays(np.float32, (2, 4, 5), elements=st.floats(0, 1, width=16) | heights)


@settings(max_examples=25, deadline=None)
@given(pairs)
def test_correlations_against_scipy(pair: np.ndarray) -> None:
    a, b = torch.from_numpy(pair)[:, None]
    flat = any(x.min() == x.max() for x in pair)
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        found = ours(a, b).item()
        assert -1 <= found <= 1
        expected = 0 if flat else theirs(pair[0].ravel(), pair[1].ravel()).statistic
        assert found == pytest.approx(expected, abs=1e-5)
        assert ours(b, a).item() == pytest.approx(found, abs=1e-6)


def test_each_pair_for_itself() -> None:
    a, b = torch.rand(2, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    for function in (pearson, spearman, ssim):
        alone = [function(a[i : i + 1], b[i : i + 1]).item() for i in range(5)]
        assert function(a, b).tolist() == pytest.approx(alone, abs=1e-6)
        assert function(a, a).tolist() == pytest.approx([1] * 5)
    assert spearman(a, a**3).tolist() == pytest.approx([1] * 5)


def _ssim(a: np.ndarray, b: np.ndarray, side: int) -> float:
    values = []
    for top in range(a.shape[0] - side + 1):
        for left in range(a.shape[1] - side + 1):
            x, y = (m[top : top + side, left : left + side].ravel() for m in (a, b))
            (vx, vxy), (_, vy) = np.cov(x, y) if side > 1 else np.zeros((2, 2))
            mx, my = x.mean(), y.mean()
            top_half = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4)
            values.append(top_half / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize(("shape", "side"), [((12, 9), 7), ((7, 7), 7), ((6, 8), 5), ((2, 2), 1)])
def test_ssim_against_a_loop_over_windows(shape: tuple[int, int], side: int) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, *shape))
    found = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None]).item()
    assert found == pytest.approx(_ssim(a, b, side), abs=1e-6)


def test_ssim_is_scikit_images() -> None:
    skimage = pytest.importorskip("skimage.metrics")
    a, b = np.random.default_rng(2).random((2, 20, 31))
    found = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None]).item()
    assert found == pytest.approx(skimage.structural_similarity(a, b, data_range=1), abs=1e-6)
