"""Masks in PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.annotations.base import (
    MOST_OBJECTS,
    Annotations,
    Box,
    BrokenAnnotation,
    Listed,
    Picture,
    files_with_suffix,
    mask_boxes,
)
from ttame_core.data.annotations.placement import placement
from ttame_core.data.decoding import apart
from ttame_core.data.files import read
from ttame_core.data.images import BrokenImage, mask_values


class MasksSettings(spec.Section):
    """The keys of a spec for masks."""

    path: spec.Location = Field(description="the folder of the masks, or one for each split")
    void: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="values of pixels that are no object, beside 0; [] for none"
    )


# JPEG blurs values into others, and BMP has no palette that says which are meant.
REFUSED = dict.fromkeys(
    (".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"), "masks are PNG files"
)
BORDER = 255  # of PASCAL VOC's masks


class Masks(Annotations):
    """PNG masks at the relative paths of their pictures; 0 is background, other values objects.

    Where a mask has only one value beside 0, each connected part of it is an object.
    """

    name = "masks"
    version = 3
    settings: MasksSettings
    Settings = MasksSettings

    @override
    def listed(self) -> Iterator[Listed]:
        return files_with_suffix(self.settings.path, ".png", REFUSED)

    @override
    def annotate(
        self, listed: Listed, picture: Picture, label: str
    ) -> tuple[list[Box], np.ndarray]:
        mask = read_mask(read(listed.location), picture, self.settings.void)
        return mask_boxes(mask, label), mask


def read_mask(data: bytes, picture: Picture, void: Sequence[int] | None = None) -> np.ndarray:
    """Read a mask as object numbers.

    Args:
        data: content of the PNG file.
        picture: the picture. A mask that has its size before the EXIF orientation is applied is
            turned as the picture is.
        void: values that are no objects, beside 0; None where the spec does not give them.

    Returns:
        (H, W) uint8: 0 for background; 1, 2, … for the other values or colours, in order, or for
        the connected parts of a single value.

    Raises:
        BrokenAnnotation: the file is no PNG, has another size than the picture or too many objects,
            or it is not known whether a value is an object or a border.
    """
    sizes = (picture.size, picture.stored_size)
    try:
        array, mode = apart(mask_values, data, "mask", sizes)
    except BrokenImage as error:
        raise BrokenAnnotation(f"the mask cannot be used: {error.reason}") from error
    grey = array.ndim == 2
    if not grey:
        if mode.endswith("A") and not array[..., :-1].any() and np.ptp(array[..., -1]):
            raise BrokenAnnotation("its objects may stand in its transparency: save them as values")
        colours = array[..., : min(3, len(mode.removesuffix("A")))].astype(np.uint32)
        array = colours @ np.array([65536, 256, 1], dtype=np.uint32)[-colours.shape[2] :]
    return placement(array.shape[1::-1], picture).mask(
        _numbered(array, grey and array.dtype == np.uint8, void)
    )


def _numbered(array: np.ndarray, of_bytes: bool, void: Sequence[int] | None) -> np.ndarray:
    """Number the objects of a mask (H, W) of values or colours, in the order of their values.

    Raises:
        BrokenAnnotation: there are too many, or 255 may be an object, a border, or the one object
            of a mask with smooth edges.
    """
    values = np.unique(array[~np.isin(array, [0, *(void or ())])])
    if void is None and of_bytes and len(values) > 1 and BORDER in values:
        raise BrokenAnnotation(
            f"beside other values, {BORDER} may be an object or a border: say `void: [{BORDER}]` "
            "or `void: []`"
        )
    if len(values) == 1:
        number, parts = cv2.connectedComponents((array == values[0]).astype(np.uint8))
        count = number - 1  # the background is one
    else:
        parts = np.where(np.isin(array, values), np.searchsorted(values, array) + 1, 0)
        count = len(values)
    if count > MOST_OBJECTS:
        raise BrokenAnnotation(f"the mask has {count} objects, more than {MOST_OBJECTS}")
    return parts.astype(np.uint8)
