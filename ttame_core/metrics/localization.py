"""Agreement of maps with annotated objects, in pixels of the classifier's view.

Metrics of boxes read an object's box; metrics of pixels read its mask, or its box without a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.objects import inside_boxes
from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.metrics.contours import LEVELS, contour_ious

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
OVERLAPS = (0.3, 0.5, 0.7)  # least IoUs at which a box counts as found
POINTING_SIDE = 224  # side of the view that a tolerance in pixels refers to


def pointing_game(maps: Tensor, objects: Tensor, tolerance: float = 0) -> Tensor:
    """Say whether a pixel of an object lies near each map's maximum (Zhang et al. 2018, IJCV, 5.1).

    A flat map points nowhere and misses.

    Args:
        maps: (B, H, W) float.
        objects: (B, H, W) bool.
        tolerance: largest distance in pixels; the paper allows 15.

    Returns:
        (B,) bool.
    """
    height, width = maps.shape[1:]
    flat = maps.flatten(1)
    best = flat.argmax(dim=1)
    ys = torch.arange(height, device=maps.device) - (best // width)[:, None]
    xs = torch.arange(width, device=maps.device) - (best % width)[:, None]
    near = ys[:, :, None] ** 2 + xs[:, None, :] ** 2 <= tolerance**2
    return (near & objects).flatten(1).any(dim=1) & (flat.amax(dim=1) > flat.amin(dim=1))


def energy_in_box(maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Return the share of each map's sum that lies in the boxes (Score-CAM, Wang et al. 2020).

    Args:
        maps: (B, H, W) float, at least 0.
        boxes: for each image (N, 4), x0, y0, x1, y1 in pixels.

    Returns:
        (B,) in [0, 1]; 0 for an empty map.
    """
    return _share_inside(maps, inside_boxes(boxes, tuple(maps.shape[1:])).to(maps.device))


def weighting_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Return Σ map · mask / Σ map for each map (Raatikainen and Rahtu 2022, section 3).

    Args:
        maps: (B, H, W) float, at least 0.
        masks: (B, H, W) bool.

    Returns:
        (B,) in [0, 1]; 0 for an empty map.
    """
    return _share_inside(maps, masks)


def _share_inside(maps: Tensor, inside: Tensor) -> Tensor:
    total = maps.sum(dim=(1, 2))
    return torch.where(total > 0, (maps * inside).sum(dim=(1, 2)) / total.where(total > 0, 1), 0)


def pixel_iou(maps: Tensor, objects: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> Tensor:
    """Return |map ≥ τ ∩ object| / |map ≥ τ ∪ object| at each threshold τ.

    Args:
        maps: (B, H, W) float.
        objects: (B, H, W) bool.
        thresholds: T thresholds, ascending.

    Returns:
        (B, T) in [0, 1].
    """
    levels = _levels(maps, thresholds).flatten(1)
    zeros = maps.new_zeros(len(maps), len(thresholds) + 1)
    inside = objects.flatten(1).to(maps.dtype)
    # From counts of pixels that reach exactly t thresholds follow those that reach at least t.
    at_least = zeros.scatter_add(1, levels, torch.ones_like(inside)).flip(1).cumsum(1).flip(1)
    common = zeros.scatter_add(1, levels, inside).flip(1).cumsum(1).flip(1)
    union = at_least + inside.sum(dim=1, keepdim=True) - common
    return torch.where(union > 0, common / union.where(union > 0, 1), 0)[:, 1:]


def _levels(maps: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Count the ascending thresholds that each value reaches, int64."""
    return torch.bucketize(maps, maps.new_tensor(thresholds), right=True)


def average_precision(maps: Tensor, objects: Tensor) -> Tensor:
    """Return the average precision Σₙ (Rₙ − Rₙ₋₁) Pₙ of maps as detectors of object pixels.

    n runs over a map's distinct values, and Pₙ and Rₙ are precision and recall of the pixels that
    have at least that value, as in scikit-learn. This is PxAP (Choe et al. 2020, section 3.2) for
    each image.

    Args:
        maps: (B, H, W) float.
        objects: (B, H, W) bool.

    Returns:
        (B,) in [0, 1]; NaN without an object.
    """
    values, order = maps.flatten(1).sort(dim=1, descending=True)
    inside = objects.flatten(1).gather(1, order).double()
    count = values.shape[1]
    places = torch.arange(count, device=maps.device).expand_as(values)
    last = torch.ones_like(inside, dtype=torch.bool)  # whether a run of equal values ends here
    last[:, :-1] = values[:, 1:] != values[:, :-1]
    ends = places.where(last, count).flip(1).cummin(dim=1).values.flip(1)
    precision = (inside.cumsum(dim=1) / (places + 1)).gather(1, ends)
    return ((inside * precision).sum(dim=1) / inside.sum(dim=1)).float()


def found_levels(overlaps: Tensor, overlap: float) -> list[list[int]]:
    """Return the levels at which each map's box is found, as the ends of runs of levels.

    Args:
        overlaps: (B, 255) IoU at each level, from `contour_ious`.
        overlap: least IoU of a box that counts as found.

    Returns:
        For each map, ascending and in turn, a level from which on the box is found, and a level
        from which on it is not, at most 255.
    """
    found = torch.nn.functional.pad((overlaps >= overlap).int(), (1, 1))
    return [row.nonzero().flatten().tolist() for row in found.diff(dim=1)]


class Localization(Family):
    """Agreement with annotated objects: a row per map of an annotated image."""

    name = "localization"
    version = 3

    class Settings(spec.Section):
        """The family's keys in a spec."""

        tolerance: float = Field(
            15.0,
            ge=0,
            description="of the pointing game, in pixels of a view whose short side is 224",
        )

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        boxed = mapped.where([len(boxes) > 0 for boxes in mapped.boxes])
        if not boxed.rows:
            return
        large, objects, boxes = boxed.large_maps, boxed.objects, boxed.boxes
        masked = torch.tensor([mask is not None for mask in boxed.masks])
        masked &= objects.flatten(1).any(dim=1).cpu()
        tolerance = self.settings.tolerance * min(large.shape[1:]) / POINTING_SIDE
        largest, best = contour_ious(large, boxes)
        scores = {
            "object_share": objects.float().mean(dim=(1, 2)),
            "pointing_game": pointing_game(large, objects, tolerance),
            "energy_in_box": energy_in_box(large, boxes),
            "weighting_game": weighting_game(large, objects),
            "average_precision": average_precision(large, objects),
            "pixel_iou": pixel_iou(large, objects),
            "box_iou": largest[:, [int(threshold * LEVELS) for threshold in THRESHOLDS]],
        }
        columns = {name: values.tolist() for name, values in scores.items()}
        for overlap in OVERLAPS:
            columns[f"largest_found_{100 * overlap:g}"] = found_levels(largest, overlap)
            columns[f"best_found_{100 * overlap:g}"] = found_levels(best, overlap)
        for i, (row, with_mask) in enumerate(zip(boxed.rows, masked.tolist(), strict=True)):
            own = {name: values[i] for name, values in columns.items()}
            if not with_mask:
                own |= {"weighting_game": None, "average_precision": None}
            yield {**row, **own}
