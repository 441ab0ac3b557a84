"""Similarity of two maps: correlation of values, correlation of ranks, structural similarity.

Maps are (B, h, w) float of one resolution. Correlations are 0 where one of two maps is flat.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 7  # side of the windows of structural similarity
STABILISERS = 0.01**2, 0.03**2  # C₁ and C₂, for values in [0, 1]


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return Σ (a − ā)(b − b̄) / √(Σ (a − ā)² Σ (b − b̄)²) of maps (B, h, w): (B,) in [−1, 1]."""
    a, b = (x.flatten(1).double() for x in (a, b))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    scale = a.norm(dim=1) * b.norm(dim=1)
    flat = scale <= 1e-12
    return torch.where(flat, 0, (a * b).sum(dim=1) / scale.where(~flat, 1)).clamp(-1, 1).float()


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation of the ranks of maps' pixels, (B,) in [−1, 1]; equals share a rank."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(maps: Tensor) -> Tensor:
    """Return ranks (B, h · w) from 0; equal values get the mean of their ranks."""
    values, order = maps.flatten(1).sort(dim=1)
    count = values.shape[1]
    places = torch.arange(count, device=maps.device).expand_as(values)
    new = torch.ones_like(values, dtype=torch.bool)  # whether a run of equal values starts here
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    starts = places.where(new, 0).cummax(dim=1).values
    last = new.roll(-1, dims=1)  # whether a run ends here; the last does, as the first is new
    ends = places.where(last, count).flip(1).cummin(dim=1).values.flip(1)
    ranks = (starts + ends).double() / 2
    return torch.empty_like(ranks).scatter(1, order, ranks)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean structural similarity of maps (Wang et al. 2004, equation 13).

    The mean is over all 7×7 windows within the map (in smaller maps, the largest odd windows that
    fit), evenly weighted, with sample covariances, of
    (2 μₐ μ_b + C₁)(2 σₐ_b + C₂) / ((μₐ² + μ_b² + C₁)(σₐ² + σ_b² + C₂)), C₁ = 0.01², C₂ = 0.03².

    Args:
        a: maps (B, h, w) in [0, 1].
        b: maps (B, h, w) in [0, 1].

    Returns:
        (B,) in [−1, 1].
    """
    side = min(WINDOW, *a.shape[1:])
    side -= 1 - side % 2
    unbiased = side**2 / max(1, side**2 - 1)

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x[:, None], side, stride=1)[:, 0]

    a, b = a.double(), b.double()
    mean_a, mean_b = mean(a), mean(b)
    variance_a = unbiased * (mean(a * a) - mean_a**2)
    variance_b = unbiased * (mean(b * b) - mean_b**2)
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = STABILISERS
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean(dim=(1, 2)).float()
