"""Shape of maps, told from themselves alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from ttame_core.metrics.base import Family, MappedImages, Row

THUMBNAIL_SIDE = 14


def complexity(maps: Tensor) -> Tensor:
    """(B,) ‖map‖₁ / (h · w) in [0, 1], the lower the better (Poppi et al. 2021, section 3.2).

    maps: (B, h, w), min–max normalised.
    """
    return maps.abs().mean(dim=(1, 2))


def sparseness(maps: Tensor) -> Tensor:
    """(B,) Gini index in [0, 1): 0 where all values are equal, near 1 where few are not 0.

    G = 1 − 2 Σₖ (v₍ₖ₎ / ‖v‖₁) · (d − k + ½) / d, over the d absolute values in ascending order
    (Chalasani et al. 2020, section 3). maps: (B, h, w). An empty map has 0.
    """
    values = maps.flatten(1).abs().double().sort(dim=1).values
    size = values.shape[1]
    ranks = torch.arange(1, size + 1, device=maps.device)
    total = values.sum(dim=1)
    weighted = (values * (size - ranks + 0.5) / size).sum(dim=1)
    return torch.where(total > 0, 1 - 2 * weighted / total.where(total > 0, 1), 0).float()


def thumbnails(maps: Tensor) -> Tensor:
    """(B, 196): each map at 14×14, row by row, centred and scaled to unit norm; 0 for a flat map.

    The correlation of two maps at that size is the inner product of their thumbnails, which SQL can
    take: list_inner_product(a.thumbnail, b.thumbnail). maps: (B, h, w).
    """
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    small = F.interpolate(maps[:, None], size=side, mode="bilinear", antialias=True).flatten(1)
    centred = small - small.mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    return torch.where(norms > 1e-6, centred / norms.where(norms > 1e-6, 1), 0)


class Shape(Family):
    """How much of the image a map marks, how unevenly, and its thumbnail: a row per map."""

    name = "shape"

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        maps = mapped.maps
        scores = zip(
            mapped.rows,
            complexity(maps).tolist(),
            sparseness(maps).tolist(),
            thumbnails(maps).tolist(),
            strict=True,
        )
        for row, mean, gini, thumbnail in scores:
            yield {**row, "complexity": mean, "sparseness": gini, "thumbnail": thumbnail}
