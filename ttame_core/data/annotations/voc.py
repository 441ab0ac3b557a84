"""Boxes in PASCAL VOC XML files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree
from xml.parsers import expat

from typing_extensions import override

from ttame_core.data.annotations.base import (
    Box,
    Boxes,
    BrokenAnnotation,
    Listed,
    Picture,
    files_with_suffix,
)
from ttame_core.data.annotations.placement import placement
from ttame_core.data.files import read
from ttame_core.data.labels import labels_of

LARGEST = 2**24  # bytes of a file


class Voc(Boxes):
    """A VOC file of boxes for each picture, matched by class folder and stem."""

    name = "voc"
    version = 3

    @override
    def listed(self) -> Iterator[Listed]:
        for listed in files_with_suffix(self.settings.path, ".xml"):
            yield replace(listed, labels=_labels(listed)) if self.settings.labels else listed

    @override
    def annotate(self, listed: Listed, picture: Picture, label: str) -> tuple[list[Box], None]:
        return voc_boxes(read(listed.location, LARGEST), picture), None


def _labels(listed: Listed) -> str | None:
    """Return the names of a picture's objects as its labels; None where they cannot be read."""
    try:
        root = _parsed(read(listed.location, LARGEST))
        names = [thing.findtext("name", "").strip() for thing in root.iter("object")]
        return labels_of([*dict.fromkeys(name for name in names if name)])
    except (BrokenAnnotation, OSError, ValueError):
        return None  # the shard of the picture says why


def voc_boxes(data: bytes, picture: Picture) -> list[Box]:
    """Read the boxes of a PASCAL VOC file, whose corners count from 1 and are inclusive.

    The boxes are turned and scaled from the size that the file gives to the picture. The path and
    the file name in the file are ignored.

    Args:
        data: content of the XML file.
        picture: the picture's sizes and orientation.

    Returns:
        Boxes that count from 0, x1 and y1 exclusive.

    Raises:
        BrokenAnnotation: the file is no such XML, or of a picture of another size.
    """
    root = _parsed(data)
    try:
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
    except (ValueError, LookupError) as error:
        raise BrokenAnnotation(f"not XML: {error}") from error
    drawn_on = (int(size[0]), int(size[1])) if min(size) >= 1 else None
    place = placement(drawn_on, picture) if boxes else None
    return [place.box(box) for box in boxes] if place else []


def _parsed(data: bytes) -> ElementTree.Element:
    """Parse VOC's XML without a document type; raises BrokenAnnotation for anything else."""
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype  # in whatever encoding it stands
    try:
        parser.Parse(data, True)
        root = ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise BrokenAnnotation(f"not XML: {error}") from error
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]  # without its namespace
    if root.tag.lower() != "annotation":
        raise BrokenAnnotation(f"not XML of PASCAL VOC: it begins with <{root.tag}>")
    return root


def _refuse_doctype(*declared: object) -> None:
    raise BrokenAnnotation("the XML declares a document type, which is not read")


def _number(node: ElementTree.Element, name: str, parent: str = "bndbox") -> float:
    text = node.findtext(f"{parent}/{name}")
    if text is None and parent == "size":
        return 0.0
    try:
        number = float(text or "")
        if math.isfinite(number):
            return number
        raise ValueError
    except ValueError as error:
        raise BrokenAnnotation(f"{parent}/{name} is {text!r}, not a number") from error
