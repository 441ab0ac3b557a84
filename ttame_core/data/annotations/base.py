"""The base class of formats of annotations, and functions on boxes.

The corners of boxes, x0, y0, x1, y1, are in pixels of the picture as displayed; x1 and y1 are
exclusive.
"""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import locate, shown, walk
from ttame_core.data.images import Picture

CORNERS = ("x0", "y0", "x1", "y1")
Box = dict[str, Any]  # name, x0, y0, x1, y1, and for a picture with several labels, label
MOST_OBJECTS = 255  # number of objects that a mask of uint8 can hold


class BrokenAnnotation(Exception):
    """The error for an annotation, or a box of it, that cannot be used, with the reason."""


@dataclass(frozen=True)
class Listed:
    """The annotation of one picture, before it is matched with the picture.

    Attributes:
        name: path of the picture, or as much of it as the annotations have; no two are the same.
        bare: the same path within its split and without suffix, by which the picture is matched.
        location: file to read for this picture; empty where `content` has the whole annotation.
        content: text of the annotation, as the format writes it; empty where it is in the file.
        stamp: text that changes when the content does.
        split: the split whose pictures alone can be annotated; None for all of them.
        reason: why the annotation cannot be used; empty where it can.
        labels: the labels of a picture that has none of its source, as the text that `labels_of`
            makes; None where the annotation tells none.
    """

    name: str
    bare: str
    location: str
    content: str
    stamp: str
    split: spec.Split | None = None
    reason: str = ""
    labels: str | None = None


class Annotations(ABC):
    """Boxes or masks of the objects in pictures, in one format.

    The registry holds the subclasses in modules of this package. It also holds those of other
    packages that declare them as entry points of the group `ttame.annotations`.

    Attributes:
        name: the format's `kind` in a spec.
        version: increase it when the code reads different boxes or masks from the same files.
        Settings: the format's keys in a spec.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    Settings: ClassVar[type[spec.Section]]

    def __init__(self, settings: Any) -> None:
        self.settings: Any = settings

    @property
    def objects(self) -> Mapping[str, Sequence[str]]:
        """The names of boxes that count, by image class; all boxes count for absent classes."""
        return {}

    @abstractmethod
    def listed(self) -> Iterator[Listed]:
        """Yield the annotations of all pictures, to be matched with the pictures.

        Raises:
            UserError: the annotations cannot be listed.
        """

    @abstractmethod
    def annotate(
        self, listed: Listed, picture: Picture, label: str
    ) -> tuple[list[Box], np.ndarray | None]:
        """Read the annotation of one picture.

        Args:
            listed: the annotation that was matched with the picture.
            picture: the picture's sizes and orientation.
            label: name of the picture's class; empty where it has none, or several.

        Returns:
            The boxes, which may reach over the picture's edges, and the mask (H, W) uint8 of object
            numbers; None for the mask where there is none.

        Raises:
            BrokenAnnotation: the annotation cannot be used.
            OSError: the annotation cannot be read.
        """

    def counts(self, box: Box, label: str) -> bool:
        """Say whether a box counts for an image of class `label`."""
        return label not in self.objects or box["name"] in self.objects[label]

    def counted(self, box: Box, labels: Mapping[int, str]) -> Box | None:
        """Return a box that counts for a picture, and None for one that does not.

        Where the picture has several labels, the box is given the one that its object has: its name
        is that of the class, or one that `objects` gives for it.

        Args:
            box: the box.
            labels: names of the picture's classes by their numbers.
        """
        if len(labels) < 2:
            return box if self.counts(box, next(iter(labels.values()), "")) else None
        for label, name in labels.items():
            if box["name"] in self.objects.get(name, [name]):
                return {**box, "label": label}
        return None


class BoxesSettings(spec.Section):
    """The keys of a spec for formats whose boxes have names."""

    path: spec.Location = Field(description="the file or folder, or one for each split")
    objects: dict[str, list[str]] = Field(
        default_factory=dict,
        description="names of objects whose boxes count, for each image class; default: all",
    )
    labels: bool = Field(
        False,
        description="whether the names of an image's objects are its labels, where it has none",
    )


class Boxes(Annotations):
    """The base class of formats whose boxes have names; a spec says which of them count."""

    settings: BoxesSettings
    Settings = BoxesSettings

    @override
    @property
    def objects(self) -> Mapping[str, Sequence[str]]:
        return self.settings.objects


def files_with_suffix(
    location: spec.Location, suffix: str, refused: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Listed]:
    """Yield the files with a suffix in annotation folders, each the annotation of one picture.

    Args:
        location: a folder, or one for each split.
        suffix: suffix of the files, in lower case.
        refused: for other suffixes, the reason why such files are not used.
    """
    for split, fs, root in locate(location, "annotation folder"):
        for path, place, changed in walk(fs, root):
            stem, extension = posixpath.splitext(path)
            if extension.lower() in {suffix, *refused}:
                bare = shown(stem)
                name = f"{split}/{bare}" if split else bare
                reason = refused.get(extension.lower(), "")
                name += extension if reason else ""
                yield Listed(name, bare, shown(place), "", changed, split, reason)


def mask_boxes(mask: np.ndarray, name: str) -> list[Box]:
    """Return a box around each object of a mask.

    Args:
        mask: (H, W) object numbers, 0 for background.
        name: name of the boxes.
    """
    boxes = []
    for number in range(1, int(mask.max(initial=0)) + 1):
        ys, xs = np.nonzero(mask == number)
        if len(xs):
            corners = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            boxes.append({"name": name} | dict(zip(CORNERS, map(float, corners), strict=True)))
    return boxes


def clip(box: Box, size: tuple[int, int]) -> Box:
    """Return the part of a box inside a picture.

    Args:
        box: box whose corners may lie anywhere.
        size: (width, height) of the picture, in pixels.

    Raises:
        BrokenAnnotation: no part of the box lies inside, or it is empty.
    """
    width, height = size
    corners = {c: float(box[c]) for c in CORNERS}
    if not (corners["x1"] > corners["x0"] and corners["y1"] > corners["y0"]):
        raise BrokenAnnotation(f"the box of {box['name'] or 'an object'} is empty")
    values = corners.values()
    of_pixels = max(values) > 1 or all(value.is_integer() for value in values)
    if not of_pixels and min(values) >= 0 and min(size) > 1:
        raise BrokenAnnotation(
            f"the box of {box['name'] or 'an object'} lies within one pixel, as if its corners "
            "were shares of the picture's sides: write them in pixels"
        )
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
    return {**box, **inside}
