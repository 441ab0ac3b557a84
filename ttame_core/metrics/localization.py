"""Localisation of maps against annotated boxes, in the pixels of the classifier's view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ttame_core.metrics.base import Family, MappedImages, Row

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


def inside_boxes(boxes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """(B, H, W) bool: pixels whose centre lies in any of the image's boxes.

    boxes: per image (N, 4) pixels x0, y0, x1, y1. size: (H, W).
    """
    ys = torch.arange(size[0]) + 0.5
    xs = torch.arange(size[1]) + 0.5
    inside = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for i, corners in enumerate(boxes):
        for x0, y0, x1, y1 in corners:
            inside[i] |= ((ys >= y0) & (ys < y1))[:, None] & ((xs >= x0) & (xs < x1))
    return inside


def pointing_game(maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """(B,) bool: the map's maximum lies in a box (Zhang et al. 2018), no tolerance.

    maps: (B, H, W) float. A flat map points nowhere and misses.
    """
    inside = inside_boxes(boxes, tuple(maps.shape[1:])).to(maps.device).flatten(1)
    flat = maps.flatten(1)
    best = flat.argmax(dim=1, keepdim=True)
    return inside.gather(1, best)[:, 0] & (flat.amax(dim=1) > flat.amin(dim=1))


def energy_in_box(maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """(B,) share of the map's sum that lies in the boxes, in [0, 1] (Score-CAM, Wang et al. 2020).

    maps: (B, H, W) float ≥ 0. 0 for an empty map.
    """
    inside = inside_boxes(boxes, tuple(maps.shape[1:])).to(maps.device)
    total = maps.sum(dim=(1, 2))
    energy = (maps * inside).sum(dim=(1, 2))
    return torch.where(total > 0, energy / total.where(total > 0, 1), 0)


def box_iou(
    maps: Tensor, boxes: Sequence[Tensor], thresholds: Sequence[float] = THRESHOLDS
) -> Tensor:
    """(B, T) IoU between the box of the map's largest component and the best annotated box.

    maps: (B, H, W) in [0, 1]. At each threshold τ the largest 8-connected component of map ≥ τ
    gives one box (Choe et al. 2020, CVPR, section 3.2). Taking the best τ over a data set is left
    to SQL.
    """
    found = torch.tensor(
        np.array([[_component_box(m, t) for t in thresholds] for m in maps.float().cpu().numpy()])
    )
    values = []
    for predicted, annotated in zip(found, boxes, strict=True):
        annotated = annotated.cpu().double()
        overlap = _area(
            torch.maximum(predicted[:, None, :2], annotated[None, :, :2]),
            torch.minimum(predicted[:, None, 2:], annotated[None, :, 2:]),
        )
        union = (
            _area(predicted[:, :2], predicted[:, 2:])[:, None]
            + _area(annotated[:, :2], annotated[:, 2:])[None]
            - overlap
        )
        values.append((overlap / union).amax(dim=1))
    return torch.stack(values).float()


def _component_box(array: np.ndarray, threshold: float) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of the largest component at or above the threshold; all 0 without one."""
    binary = (array >= threshold).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    if count < 2:
        return 0.0, 0.0, 0.0, 0.0
    left, top, width, height, _ = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())]
    return float(left), float(top), float(left + width), float(top + height)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)


class Localization(Family):
    """Agreement with annotated boxes: a row per map of an annotated image."""

    name = "localization"

    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        boxed = mapped.where([len(boxes) > 0 for boxes in mapped.boxes])
        if not boxed.rows:
            return
        large, boxes = boxed.large_maps, boxed.boxes
        scores = zip(
            boxed.rows,
            pointing_game(large, boxes).tolist(),
            energy_in_box(large, boxes).tolist(),
            box_iou(large, boxes).tolist(),
            strict=True,
        )
        for row, hit, energy, overlaps in scores:
            yield {**row, "pointing_game": hit, "energy_in_box": energy, "box_iou": overlaps}
