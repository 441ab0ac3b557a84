"""Moving of annotations from the picture they were drawn on to the picture as displayed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from ttame_core.data.annotations.base import Box, BrokenAnnotation, Picture

TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # operations that turn a stored picture upright, by its EXIF orientation


@dataclass(frozen=True)
class Placement:
    """A turn and a scale that move annotations onto the picture as displayed.

    Attributes:
        drawn_on: (width, height) of the picture that annotations were drawn on, in pixels.
        orientation: EXIF orientation by which annotations are turned; 1 where they are not.
        size: (width, height) of the picture as displayed, in pixels.
    """

    drawn_on: tuple[int, int]
    orientation: int
    size: tuple[int, int]

    def box(self, box: Box) -> Box:
        """Return a box moved onto the picture as displayed."""
        width, height = self.drawn_on
        xs, ys = (box["x0"], box["x1"]), (box["y0"], box["y1"])
        if self.orientation in (2, 3, 7, 8):
            xs = width - xs[1], width - xs[0]
        if self.orientation in (3, 4, 6, 7):
            ys = height - ys[1], height - ys[0]
        if self.orientation >= 5:
            xs, ys, width, height = ys, xs, height, width
        across, down = self.size[0] / width, self.size[1] / height
        x0, x1, y0, y1 = xs[0] * across, xs[1] * across, ys[0] * down, ys[1] * down
        return {"name": box["name"], "x0": x0, "y0": y0, "x1": x1, "y1": y1}

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Return a mask moved onto the picture as displayed, (H, W) uint8."""
        image = Image.fromarray(mask)
        if self.orientation in TURNS:
            image = image.transpose(TURNS[self.orientation])
        return np.asarray(image.resize(self.size, Image.Resampling.NEAREST))


def placement(drawn_on: tuple[int, int] | None, picture: Picture) -> Placement:
    """Find the placement of annotations on a picture, from the size that they give for it.

    Args:
        drawn_on: (width, height) that the annotations give, in pixels; None where they give none.
        picture: the picture's sizes and orientation.

    Raises:
        BrokenAnnotation: the size is that of another picture, or could be that of the picture
            before as well as after its EXIF orientation.
    """
    shown, stored = picture.size, picture.stored_size
    if picture.orientation == 1:
        stored = shown
    for alike in (tuple.__eq__, _scaled):
        upright = drawn_on is None or alike(drawn_on, shown)
        turned = drawn_on is None or alike(drawn_on, stored)
        if upright and turned and picture.orientation != 1:
            raise BrokenAnnotation(
                f"the picture is turned by its EXIF orientation {picture.orientation}, and the "
                "annotation's size does not tell whether it was drawn before or after that"
            )
        if upright:
            return Placement(drawn_on or shown, 1, shown)
        if turned and drawn_on:
            return Placement(drawn_on, picture.orientation, shown)
    assert drawn_on
    raise BrokenAnnotation(
        "the annotation is of a picture of {}×{} pixels, the image has {}×{}".format(
            *drawn_on, *shown
        )
    )


def _scaled(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Say whether two sizes are those of one picture, within the rounding of a pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)
