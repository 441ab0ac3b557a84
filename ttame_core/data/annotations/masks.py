"""Masks in PNG files."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.annotations.base import (
    Annotations,
    Box,
    BrokenAnnotation,
    Listed,
    Picture,
    files_with_suffix,
    mask_boxes,
)
from ttame_core.data.files import read


class MasksSettings(spec.Section):
    """The keys of a spec for masks."""

    path: spec.Location


class Masks(Annotations):
    """PNG masks at the relative paths of their pictures; 0 is background, other values objects."""

    name = "masks"
    settings: MasksSettings
    Settings = MasksSettings

    @override
    def listed(self) -> Iterator[Listed]:
        return files_with_suffix(self.settings.path, ".png")

    @override
    def annotate(
        self, listed: Listed, picture: Picture, label: str
    ) -> tuple[list[Box], np.ndarray]:
        mask = read_mask(read(listed.location), picture)
        return mask_boxes(mask, label), mask


def read_mask(data: bytes, picture: Picture) -> np.ndarray:
    """Read a mask as object numbers.

    Args:
        data: content of the PNG file.
        picture: the picture, whose size as displayed the mask must have.

    Returns:
        (H, W) uint8: 0 for background; 1, 2, … for the other values or colours, in order.

    Raises:
        BrokenAnnotation: the file is no PNG, or has another size.
    """
    try:
        image = Image.open(io.BytesIO(data))
        if image.size == picture.size:  # otherwise no pixels are decoded, however many there are
            array = np.asarray(image)
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        raise BrokenAnnotation(f"not a PNG mask: {error}") from error
    if image.size != picture.size:
        raise BrokenAnnotation(
            "the mask has {}×{} pixels, the image {}×{}".format(*image.size, *picture.size)
        )
    if array.ndim == 3:
        colours = array[..., : min(3, len(image.mode.removesuffix("A")))].astype(np.uint32)
        array = colours @ np.array([65536, 256, 1], dtype=np.uint32)[-colours.shape[2] :]
    values = np.unique(array)
    numbers = np.searchsorted(values[values != 0], array) + 1
    return np.where(array == 0, 0, np.minimum(numbers, 255)).astype(np.uint8)
