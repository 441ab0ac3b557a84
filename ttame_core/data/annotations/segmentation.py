"""Masks of COCO's segmentations: polygons, and run lengths with and without compression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Size = tuple[int, int]  # width, height


def region(segmentation: Any, size: Size) -> np.ndarray:
    """Return the pixels of a segmentation: (H, W) bool.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, …], or run lengths {size, counts}.
        size: (width, height) of the picture, pixels.

    Raises:
        ValueError: it is neither, or of another size.
        TypeError: it holds other things than numbers.
        KeyError: run lengths have no counts or no size.
    """
    if isinstance(segmentation, dict):
        return _runs(segmentation, size)
    inside = np.zeros((size[1], size[0]), dtype=bool)
    for polygon in segmentation:
        corners = np.asarray(polygon, dtype=float).reshape(-1, 2)
        if len(corners) < 3 or not np.isfinite(corners).all():
            raise ValueError("a polygon needs at least three corners")
        _fill(inside, corners)
    return inside


def _fill(inside: np.ndarray, corners: np.ndarray) -> None:
    """Mark the pixels whose centres lie in a polygon, by the even-odd rule.

    Args:
        inside: (H, W) bool, changed in place.
        corners: (N, 2) float, x and y, pixels.
    """
    height, width = inside.shape
    following = np.roll(corners, -1, axis=0)
    first = max(0, int(np.floor(corners[:, 1].min())))
    last = min(height, int(np.ceil(corners[:, 1].max())))
    for row in range(first, last):
        y = row + 0.5
        crossing = (corners[:, 1] <= y) != (following[:, 1] <= y)
        (x0, y0), (x1, y1) = corners[crossing].T, following[crossing].T
        borders = np.sort(x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        columns = np.clip(np.ceil(borders - 0.5), 0, width).astype(int)
        for start, end in columns.reshape(-1, 2):
            inside[row, start:end] = True


def _runs(segmentation: dict[str, Any], size: Size) -> np.ndarray:
    """Return the mask of run lengths, which go down the columns and begin with the background."""
    height, width = map(int, segmentation["size"])
    if (width, height) != size:
        raise ValueError(f"its run lengths are of {width}×{height} pixels, not {size}")
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = _decompressed(counts)
    lengths = np.asarray(counts, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != width * height:
        raise ValueError(f"its run lengths are not those of {width}×{height} pixels")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def _decompressed(text: str) -> Sequence[int]:
    """Return the run lengths in COCO's text: five bits a character, differences from the third on.

    See rleFrString in maskApi.c of the COCO API.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its run lengths hold {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths
