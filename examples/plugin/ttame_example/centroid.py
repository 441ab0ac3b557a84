"""Where the middle of a map lies."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ttame_core.metrics import Family, MappedImages, Row


def centroids(maps: Tensor) -> Tensor:
    """(B, 2): x and y of each map's centre of mass, as shares of width and height.

    maps: (B, h, w), not negative. An empty map has its middle.
    """
    height, width = maps.shape[1:]
    across = (torch.arange(width, device=maps.device) + 0.5) / width
    down = (torch.arange(height, device=maps.device) + 0.5) / height
    total = maps.sum(dim=(1, 2))
    x = (maps.sum(dim=1) * across).sum(dim=1)
    y = (maps.sum(dim=2) * down).sum(dim=1)
    middle = torch.full_like(total, 0.5)
    return torch.stack([(m / total).where(total > 0, middle) for m in (x, y)], dim=1)


class Centroid(Family):
    """A row per map: its centre of mass, and how far that is from the nearest box's middle."""

    name = "centroid"

    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        height, width = mapped.batch_images.shape[-2:]
        side = torch.tensor([width, height], dtype=torch.float32)
        found = centroids(mapped.maps).cpu()
        for row, centroid, boxes in zip(mapped.rows, found, mapped.boxes, strict=True):
            middles = (boxes[:, :2] + boxes[:, 2:]) / 2  # (N, 2) pixels
            distances = (middles - centroid * side).norm(dim=1) / side.norm()
            distance = distances.min().item() if len(distances) else None
            yield {**row, "x": centroid[0].item(), "y": centroid[1].item(), "distance": distance}
