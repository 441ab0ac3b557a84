"""The shape of maps: metrics that read nothing but the maps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from ttame_core.metrics.base import Family, MappedImages, Row

THUMBNAIL_SIDE = 14


def complexity(maps: Tensor) -> Tensor:
    """Return ‖map‖₁ / (h · w) of maps; lower is better (Poppi et al. 2021, section 3.2).

    Args:
        maps: (B, h, w), min–max normalised.

    Returns:
        (B,) in [0, 1].
    """
    return maps.abs().mean(dim=(1, 2))


def sparseness(maps: Tensor) -> Tensor:
    """Return the Gini index of maps (Chalasani et al. 2020, section 3); higher is sparser.

    G = 1 − 2 Σₖ (v₍ₖ₎ / ‖v‖₁) · (d − k + ½) / d, over the d absolute values in ascending order.

    Args:
        maps: (B, h, w).

    Returns:
        (B,) in [0, 1): 0 where all values are equal or the map is empty, near 1 where only few
        values are not 0.
    """
    values = maps.flatten(1).abs().double().sort(dim=1).values
    size = values.shape[1]
    ranks = torch.arange(1, size + 1, device=maps.device)
    total = values.sum(dim=1)
    weighted = (values * (size - ranks + 0.5) / size).sum(dim=1)
    return torch.where(total > 0, 1 - 2 * weighted / total.where(total > 0, 1), 0).float()


def thumbnails(maps: Tensor) -> Tensor:
    """Return small maps, at 14×14, centred and scaled to unit norm.

    The correlation of two maps at that size is the inner product of their thumbnails, in SQL
    list_inner_product(a.thumbnail, b.thumbnail).

    Args:
        maps: (B, h, w).

    Returns:
        (B, 196), row by row; 0 for a flat map.
    """
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    small = F.interpolate(maps[:, None], size, mode="bilinear", antialias=True).flatten(1)
    centred = small - small.mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    return torch.where(norms > 1e-6, centred / norms.where(norms > 1e-6, 1), 0)


class Shape(Family):
    """Complexity and sparseness of a map, and its thumbnail: a row per map."""

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
