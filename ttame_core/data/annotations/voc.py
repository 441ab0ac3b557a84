"""Boxes in PASCAL VOC XML files."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from typing_extensions import override

from ttame_core.data.annotations.base import (
    Box,
    Boxes,
    BrokenAnnotation,
    Listed,
    Picture,
    files_with_suffix,
)
from ttame_core.data.files import read


class Voc(Boxes):
    """A VOC file of boxes for each picture, matched by class folder and stem."""

    name = "voc"

    @override
    def listed(self) -> Iterator[Listed]:
        return files_with_suffix(self.settings.path, ".xml")

    @override
    def annotate(self, listed: Listed, picture: Picture, label: str) -> tuple[list[Box], None]:
        return voc_boxes(read(listed.location), picture), None


def voc_boxes(data: bytes, picture: Picture) -> list[Box]:
    """Read the boxes of a PASCAL VOC file, whose corners count from 1 and are inclusive.

    Where the file gives the picture's size before its EXIF orientation, the boxes are turned with
    the picture. The path and the file name in the file are ignored.

    Args:
        data: content of the XML file.
        picture: the picture's sizes and orientation.

    Returns:
        Boxes that count from 0, x1 and y1 exclusive.

    Raises:
        BrokenAnnotation: the file is no such XML.
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
    """Turn a box of the stored picture into the displayed one, where that swaps the axes."""
    width, height = picture.stored_size
    xs, ys = (box["x0"], box["x1"]), (box["y0"], box["y1"])
    if picture.orientation in (6, 7):
        ys = height - ys[1], height - ys[0]
    if picture.orientation in (7, 8):
        xs = width - xs[1], width - xs[0]
    return {"name": box["name"], "x0": ys[0], "y0": xs[0], "x1": ys[1], "y1": xs[1]}
