"""Boxes and masks of objects: PASCAL VOC XML, COCO JSON, PNG masks.

Boxes are pixels of the picture as displayed, x0, y0, x1, y1, the far edges exclusive.
"""

from __future__ import annotations

import io
import json
import posixpath
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ttame_core import spec
from ttame_core.data.sources import locate, shown, stamp, walk
from ttame_core.errors import UserError

Box = dict[str, Any]  # name, x0, y0, x1, y1
SUFFIXES = {"voc": ".xml", "masks": ".png"}


class BrokenAnnotation(Exception):
    """An annotation, or one box of it, that cannot be used; the message is the reason."""


@dataclass(frozen=True)
class AnnotationFile:
    """One file of annotations. path: relative to the folder, without its suffix."""

    path: str
    location: str
    stamp: str


@dataclass(frozen=True)
class Picture:
    """What annotations need to know of a picture: sizes in pixels, orientation as in EXIF."""

    size: tuple[int, int]
    stored_size: tuple[int, int]
    orientation: int


def annotation_files(
    settings: spec.VocAnnotations | spec.MaskAnnotations,
) -> Iterator[AnnotationFile]:
    """The XML files or PNG masks of a folder."""
    suffix = SUFFIXES[settings.kind]
    for split, fs, root in locate(settings.path, "annotation folder"):
        for path, location, changed in walk(fs, root):
            stem, extension = posixpath.splitext(path)
            if extension.lower() == suffix:
                path = f"{split}/{stem}" if split else stem
                yield AnnotationFile(shown(path), shown(location), changed)


def coco_boxes(settings: spec.CocoAnnotations) -> Iterator[tuple[str, list[Box], str]]:
    """(file name, boxes, stamp) of every image that a COCO file annotates."""
    for _, fs, path in locate(settings.path, "COCO file"):
        try:
            with fs.open(path, "rb") as stream:
                content = json.load(stream)
            names = {c["id"]: _text(c["name"]) for c in content["categories"]}
            files = {image["id"]: _text(image["file_name"]) for image in content["images"]}
            boxes: dict[int, list[Box]] = {number: [] for number in files}
            for annotation in content["annotations"]:
                x, y, width, height = map(float, annotation["bbox"])
                corners = {"x0": x, "y0": y, "x1": x + width, "y1": y + height}
                name = names[annotation["category_id"]]
                boxes[annotation["image_id"]].append({"name": name, **corners})
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UserError(f"{path} is not a COCO file of boxes: {error!r}") from error
        changed = stamp(fs.info(path))
        for number, name in files.items():
            yield name, boxes[number], changed


def _text(value: Any) -> str:
    """A text that can be stored. Raises TypeError or ValueError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()  # JSON can name halves of characters
    return value


def voc_boxes(data: bytes, picture: Picture) -> list[Box]:
    """Boxes of a PASCAL VOC file, whose corners count from 1 and are inclusive.

    Where the file's size is that of the picture before its EXIF orientation, they are turned with
    it. The file's own path and file name are not looked at.
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise BrokenAnnotation("the XML declares a document type, which is not read")
    try:
        root = ElementTree.fromstring(data)
        boxes = [
            {
                "name": thing.findtext("name", "").strip(),
                "x0": _number(thing, "xmin") - 1,
                "y0": _number(thing, "ymin") - 1,
                "x1": _number(thing, "xmax"),
                "y1": _number(thing, "ymax"),
            }
            for thing in root.iter("object")
        ]
        size = _number(root, "width", "size"), _number(root, "height", "size")
    except ElementTree.ParseError as error:
        raise BrokenAnnotation(f"not XML: {error}") from error
    if picture.size != picture.stored_size and size == picture.stored_size:
        boxes = [_turned(box, picture) for box in boxes]
    return boxes


def _number(node: ElementTree.Element, name: str, parent: str = "bndbox") -> float:
    text = node.findtext(f"{parent}/{name}")
    if text is None and parent == "size":
        return 0.0
    try:
        return float(text or "")
    except ValueError as error:
        raise BrokenAnnotation(f"{parent}/{name} is {text!r}, not a number") from error


def _turned(box: Box, picture: Picture) -> Box:
    """A box of the stored picture in the displayed one; for orientations that swap the axes."""
    width, height = picture.stored_size
    xs, ys = (box["x0"], box["x1"]), (box["y0"], box["y1"])
    if picture.orientation in (6, 7):
        ys = height - ys[1], height - ys[0]
    if picture.orientation in (7, 8):
        xs = width - xs[1], width - xs[0]
    return {"name": box["name"], "x0": ys[0], "y0": xs[0], "x1": ys[1], "y1": xs[1]}


def read_mask(data: bytes, picture: Picture) -> np.ndarray:
    """(H, W) uint8: 0 for background, 1, 2, … for the mask's other values or colours, in order."""
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


def mask_boxes(mask: np.ndarray, name: str) -> list[Box]:
    """The box of each object of a mask (H, W) of object numbers."""
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
    """The part of a box inside a picture of `size`; raises BrokenAnnotation where there is none."""
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


def counts(box: Box, label: str, settings: Any) -> bool:
    """Whether the spec's `objects` lets a box count for an image of class `label`."""
    wanted = getattr(settings, "objects", {}).get(label)
    return wanted is None or box["name"] in wanted
