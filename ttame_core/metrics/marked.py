"""What maps mark, and where: that maps of one class are alike may be the sign of a shortcut.

A classifier that tells a class by a tag, a frame, a background or the quality of its pictures has
maps that mark the same place or the same kind of patch in all pictures of that class. `marked.sql`
says how alike they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.metrics.shape import thumbnails

MARKED = 0.1  # share of the pixels that count as marked
PLACE_SIDE = 7


def marked_pixels(maps: Tensor) -> Tensor:
    """Return the marked tenth of each map's pixels, (B, H, W) bool.

    Args:
        maps: (B, H, W); the tenth of the pixels with the largest values is marked, and those that
            equal the least of them.
    """
    flat = maps.flatten(1)
    least = flat.topk(ceil(MARKED * flat.shape[1]), dim=1).values[:, -1:]
    return (flat >= least).view_as(maps)


def looks(images: Tensor, maps: Tensor) -> Tensor:
    """Return what the marked tenth of each image looks like.

    Args:
        images: (B, C, H, W) in [0, 1]; where C is not 3, the mean of the channels stands for red,
            green and blue.
        maps: (B, H, W), of which `marked_pixels` are marked.

    Returns:
        (B, 7): mean and standard deviation of red, green and blue over the marked pixels, and the
        grain, the mean distance of a pixel from the mean of its 3×3 neighbourhood.
    """
    if images.shape[1] != 3:
        images = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    chosen = marked_pixels(maps).to(images.dtype)
    weights = (chosen / chosen.sum(dim=(1, 2), keepdim=True))[:, None]
    mean = (images * weights).sum(dim=(2, 3))
    variance = ((images - mean[..., None, None]) ** 2 * weights).sum(dim=(2, 3))
    around = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    rough = (images - around).abs().mean(dim=1, keepdim=True)
    grain = (rough * weights).sum(dim=(2, 3))
    return torch.cat([mean, variance.sqrt(), grain], dim=1)


class Marked(Family):
    """Place of a map, and the look of what it marks: a row per map."""

    name = "marked"

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        places = thumbnails(mapped.maps, PLACE_SIDE).tolist()
        seen = looks(mapped.images, mapped.large_maps).tolist()
        for row, place, look in zip(mapped.rows, places, seen, strict=True):
            yield {**row, "place": place, "look": look}
