"""What every format of annotations can do, and boxes.

Boxes are pixels of the picture as displayed, x0, y0, x1, y1, the far edges exclusive.
"""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import locate, shown, walk

Box = dict[str, Any]  # name, x0, y0, x1, y1


class BrokenAnnotation(Exception):
    """An annotation, or one box of it, that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Listed:
    """What annotates one picture.

    Attributes:
        name: the path of the picture that it belongs to, as far as the annotations tell.
        bare: that path without its suffix, by which the picture is matched.
        location: of a file that is read for each picture; empty: `boxes` are all there is.
        boxes: None where they stand in the file.
        stamp: changes when the content does.
    """

    name: str
    bare: str
    location: str
    boxes: list[Box] | None
    stamp: str


@dataclass(frozen=True)
class Picture:
    """What annotations need to know of a picture.

    Attributes:
        size: (width, height) as displayed, pixels.
        stored_size: (width, height) before the EXIF orientation is applied, pixels.
        orientation: as in EXIF, 1 to 8.
    """

    size: tuple[int, int]
    stored_size: tuple[int, int]
    orientation: int


class Annotations(ABC):
    """Boxes or masks of the objects in pictures.

    A subclass in a module of this package, or in an entry point of the group `ttame.annotations`,
    is in the registry.

    Attributes:
        name: its `kind` in a spec.
        Settings: its keys in a spec.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[spec.Section]]

    def __init__(self, settings: Any) -> None:
        self.settings: Any = settings

    @property
    def objects(self) -> Mapping[str, Sequence[str]]:
        """Names of the boxes that count, by image class; all do of a class that is not there."""
        return {}

    @abstractmethod
    def listed(self) -> Iterator[Listed]:
        """Yield what there is to match with pictures.

        Raises:
            UserError: the annotations cannot be listed.
        """

    @abstractmethod
    def annotate(
        self, listed: Listed, picture: Picture, label: str
    ) -> tuple[list[Box], np.ndarray | None]:
        """Read what annotates one picture.

        Args:
            listed: what was matched with the picture.
            picture: its sizes and its orientation.
            label: the name of its class.

        Returns:
            The boxes, which may reach over the picture's edges, and the mask (H, W) uint8 of object
            numbers, None where there is none.

        Raises:
            BrokenAnnotation: the annotation cannot be used.
            OSError: the annotation cannot be read.
        """

    def counts(self, box: Box, label: str) -> bool:
        """Return whether a box counts for an image of class `label`."""
        return label not in self.objects or box["name"] in self.objects[label]


class BoxesSettings(spec.Section):
    """The keys of a spec that set boxes with names."""

    path: spec.Location
    objects: dict[str, list[str]] = Field(
        default_factory=dict, description="object names that count, per image class; default: all"
    )


class Boxes(Annotations):
    """What formats of boxes share whose objects have names: a spec says which of them count."""

    settings: BoxesSettings
    Settings = BoxesSettings

    @override
    @property
    def objects(self) -> Mapping[str, Sequence[str]]:
        return self.settings.objects


def files_with_suffix(location: spec.Location, suffix: str) -> Iterator[Listed]:
    """Yield the files of annotation folders that have a suffix; each belongs to one picture."""
    for split, fs, root in locate(location, "annotation folder"):
        for path, place, changed in walk(fs, root):
            stem, extension = posixpath.splitext(path)
            if extension.lower() == suffix:
                name = shown(f"{split}/{stem}" if split else stem)
                yield Listed(name, name, shown(place), None, changed)


def mask_boxes(mask: np.ndarray, name: str) -> list[Box]:
    """Return the box, called `name`, of each object of a mask (H, W) of object numbers."""
    boxes = []
    for number in range(1, int(mask.max(initial=0)) + 1):
        ys, xs = np.nonzero(mask == number)
        if len(xs):
            corners = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            boxes.append(
                {"name": name}
                | dict(zip(("x0", "y0", "x1", "y1"), map(float, corners), strict=True))
            )
    return boxes


def clip(box: Box, size: tuple[int, int]) -> Box:
    """Return the part of a box inside a picture.

    Args:
        box: any corners.
        size: (width, height) of the picture, pixels.

    Raises:
        BrokenAnnotation: no part of the box lies inside, or it is empty.
    """
    width, height = size
    corners = {c: float(box[c]) for c in ("x0", "y0", "x1", "y1")}
    if not (corners["x1"] > corners["x0"] and corners["y1"] > corners["y0"]):
        raise BrokenAnnotation(f"the box of {box['name'] or 'an object'} is empty")
    inside = {
        "x0": max(corners["x0"], 0.0),
        "y0": max(corners["y0"], 0.0),
        "x1": min(corners["x1"], float(width)),
        "y1": min(corners["y1"], float(height)),
    }
    if inside["x1"] <= inside["x0"] or inside["y1"] <= inside["y0"]:
        raise BrokenAnnotation(
            f"the box of {box['name'] or 'an object'} lies outside the {width}×{height} image"
        )
    return {"name": box["name"], **inside}
