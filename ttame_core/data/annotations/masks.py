"""PNG masks."""

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
    """The keys of a spec that set it."""

    path: spec.Location


class Masks(Annotations):
    """A mask at each picture's relative path; 0 is background, any other value an object."""

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
    """Return (H, W) uint8: 0 for background, 1, 2, … for other values or colours, in order."""
    try:
        image = Image.open(io.BytesIO(data))
        if image.size == picture.size:  # else its pixels are not looked at, however many it claims
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
