"""How alike two maps are: correlation of values, correlation of ranks, structural similarity.

Maps are (B, h, w) float of one resolution. Where either of two maps is flat, nothing correlates: 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 7  # side of the windows of structural similarity
STABILISERS = 0.01**2, 0.03**2  # C₁ and C₂, for values in [0, 1]


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """(B,) Σ (a − ā)(b − b̄) / √(Σ (a − ā)² Σ (b − b̄)²), in [−1, 1]."""
    a, b = (x.flatten(1).double() for x in (a, b))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    scale = a.norm(dim=1) * b.norm(dim=1)
    flat = scale <= 1e-12
    return torch.where(flat, 0, (a * b).sum(dim=1) / scale.where(~flat, 1)).clamp(-1, 1).float()


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """(B,) correlation of the ranks of the maps' pixels, in [−1, 1]; equal values share a rank."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(maps: Tensor) -> Tensor:
    """(B, h · w) ranks from 0; equal values have the mean of theirs."""
    values, order = maps.flatten(1).sort(dim=1)
    count = values.shape[1]
    places = torch.arange(count, device=maps.device).expand_as(values)
    new = torch.ones_like(values, dtype=torch.bool)  # starts a run of equal values
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    starts = places.where(new, 0).cummax(dim=1).values
    last = new.roll(-1, dims=1)  # the first starts a run: the last ends one
    ends = places.where(last, count).flip(1).cummin(dim=1).values.flip(1)
    ranks = (starts + ends).double() / 2
    return torch.empty_like(ranks).scatter(1, order, ranks)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """(B,) mean structural similarity of maps in [0, 1] (Wang et al. 2004, equation 13).

    Over all 7×7 windows within the map (smaller maps: the largest odd window that fits), evenly
    weighted, with sample covariances:
    (2 μₐ μ_b + C₁)(2 σₐ_b + C₂) / ((μₐ² + μ_b² + C₁)(σₐ² + σ_b² + C₂)), C₁ = 0.01², C₂ = 0.03².
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
