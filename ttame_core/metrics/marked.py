"""What maps mark, and where: that maps of one class are alike may be the sign of a shortcut.

A classifier that tells a class by a tag, a frame or a background has maps that mark the same place
in all pictures of that class, or the same kind of patch. `marked.sql` says how alike they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from ttame_core.metrics.base import Family, MappedImages, Row

MARKED = 0.1  # share of the pixels that count as marked
SIDE = 7  # cells of a picture, in each direction


def marked_pixels(maps: Tensor) -> Tensor:
    """Return the marked tenth of each map's pixels, (B, H, W) bool.

    Args:
        maps: (B, H, W); the tenth of the pixels with the largest values is marked, and those that
            equal the least of them.
    """
    flat = maps.flatten(1)
    least = flat.topk(ceil(MARKED * flat.shape[1]), dim=1).values[:, -1:]
    return (flat >= least).view_as(maps)


def places(maps: Tensor) -> Tensor:
    """Return the share of each map that lies in each of 7 × 7 cells.

    Args:
        maps: (B, h, w), 0 or more.

    Returns:
        (B, 49), row by row, of sum 1; the same everywhere for a map that is flat.
    """
    size = (SIDE, SIDE)
    cells = F.interpolate(maps[:, None], size, mode="bilinear", antialias=True).flatten(1)
    total = cells.sum(dim=1, keepdim=True)
    return torch.where(total > 0, cells / total.where(total > 0, 1), 1 / SIDE**2)


def looks(images: Tensor) -> Tensor:
    """Return what each of 7 × 7 cells of each image looks like.

    Args:
        images: (B, C, H, W) in [0, 1]; where C is not 3, the mean of the channels stands for red,
            green and blue.

    Returns:
        (B, 343): 49 cells row by row, for each of seven numbers: mean of red, green and blue,
        standard deviation of these, and the grain, the mean distance of a pixel from the mean of
        its 3×3 neighbourhood.
    """
    if images.shape[1] != 3:
        images = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    mean = F.adaptive_avg_pool2d(images, SIDE)
    variance = F.adaptive_avg_pool2d(images**2, SIDE) - mean**2
    around = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    rough = (images - around).abs().mean(dim=1, keepdim=True)
    grain = F.adaptive_avg_pool2d(rough, SIDE)
    return torch.cat([mean, variance.clamp(min=0).sqrt(), grain], dim=1).flatten(1)


class Marked(Family):
    """Place of a map, and the look of its image at each place: a row per map."""

    name = "marked"
    version = 2

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        places_of_maps = places(mapped.maps).tolist()
        seen = looks(mapped.batch_images)[mapped.positions.to(mapped.batch_images.device)].tolist()
        for row, place, look in zip(mapped.rows, places_of_maps, seen, strict=True):
            yield {**row, "place": place, "look": look}
