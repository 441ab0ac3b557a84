"""Boxes in COCO JSON files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.annotations.base import (
    MOST_OBJECTS,
    Box,
    Boxes,
    BrokenAnnotation,
    Listed,
    Picture,
    mask_boxes,
)
from ttame_core.data.annotations.placement import placement
from ttame_core.data.annotations.segmentation import region
from ttame_core.data.files import locate, stamp
from ttame_core.data.images import MAX_PIXELS
from ttame_core.data.labels import labels_of
from ttame_core.errors import UserError


class Coco(Boxes):
    """COCO files, whose boxes and masks are matched to pictures by file name.

    One file holds those of all pictures, or there is a file for each split. An annotation that is
    marked as a crowd (`iscrowd`) is passed over. A picture has a mask where all its objects have a
    segmentation.
    """

    name = "coco"
    version = 3

    @override
    def listed(self) -> Iterator[Listed]:
        for split, fs, path in locate(self.settings.path, "COCO file"):
            try:
                with fs.open(path, "rb") as stream:
                    content = _parts(json.load(stream))
                named = [(c["id"], _text(c["name"])) for c in content["categories"]]
                names = _by_id(named, f"categories of {path}")
                images, annotations = list(content["images"]), list(content["annotations"])
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
                said = f"{error!r}" if isinstance(error, KeyError) else error
                raise UserError(f"{path} is not a COCO file of boxes: {said}") from error
            for listed in _listed(images, annotations, names, (split, path, stamp(fs.info(path)))):
                yield replace(listed, labels=_labels(listed)) if self.settings.labels else listed

    @override
    def annotate(
        self, listed: Listed, picture: Picture, label: str
    ) -> tuple[list[Box], np.ndarray | None]:
        boxes: list[Box] = []
        regions: list[np.ndarray | None] = []
        for record in json.loads(listed.content):
            place = placement(record["size"] and tuple(record["size"]), picture)
            for thing in record["objects"]:
                if not self.counts(thing, label):
                    continue
                own = thing.pop("segmentation")
                pixels = None if own is None else _pixels(own, place.drawn_on)
                if thing["x0"] is None and pixels is not None:
                    thing = next(iter(mask_boxes(pixels, thing["name"])), None)
                if thing is not None:
                    boxes.append(place.box(thing))
                    regions.append(None if pixels is None else place.mask(pixels))
        if not boxes or len(boxes) > MOST_OBJECTS:
            return boxes, None
        mask = np.zeros((picture.size[1], picture.size[0]), dtype=np.uint8)
        for number, pixels in enumerate(regions, 1):
            if pixels is None:
                return boxes, None
            mask[pixels > 0] = number
        return boxes, mask


def _parts(content: Any) -> dict[str, Any]:
    """Return the content of a COCO file; raises ValueError where a part of it is missing."""
    if isinstance(content, list):
        raise ValueError("it is a list, as detectors write their results")
    parts = ("images", "annotations", "categories")
    missing = [part for part in parts if not isinstance(content, dict) or part not in content]
    if missing:
        raise ValueError(f"it has no `{missing[0]}`")
    return content


def _listed(
    images: list[Any],
    annotations: list[Any],
    names: dict[Any, str],
    about: tuple[spec.Split | None, str, str],
) -> Iterator[Listed]:
    """Yield a `Listed` for each picture, and one with a reason for each entry that is unusable."""
    split, path, changed = about
    prefix = f"{split}/" if split else ""

    def broken(what: str, number: int, given: Any, error: Exception) -> Listed:
        number = given.get("id", number) if isinstance(given, dict) else number
        reason = f"the {what} cannot be used: {error}"
        return Listed(f"{prefix}{what} {number}", "", "", "", changed, split, reason)

    records: list[tuple[Any, tuple[str, dict[str, Any]]]] = []
    for number, image in enumerate(images):
        try:
            sides = image.get("width"), image.get("height")
            size = None if not all(sides) else [_whole(side) for side in sides]
            hash(image.get("id"))
            file_name = _text(image.get("file_name")).replace("\\", "/")
            records.append((image.get("id"), (file_name, {"size": size, "objects": []})))
        except (TypeError, ValueError, AttributeError) as error:
            yield broken("image", number, image, error)
    by_id = _by_id(records, f"images of {path}")
    for number, annotation in enumerate(annotations):
        try:
            if annotation.get("iscrowd"):
                continue
            if annotation.get("image_id") not in by_id:
                raise ValueError(f"there is no image {annotation.get('image_id')!r}")
            _, record = by_id[annotation["image_id"]]
            record["objects"].append(_object(annotation, names))
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            yield broken("annotation", number, annotation, error)
    by_file: dict[str, list[dict[str, Any]]] = {}
    for file_name, record in by_id.values():
        by_file.setdefault(file_name, []).append(record)
    for file_name, of_file in by_file.items():
        bare = re.sub(r"\.[^./]*\Z", "", file_name)
        yield Listed(prefix + file_name, bare, "", json.dumps(of_file), changed, split)


def _labels(listed: Listed) -> str | None:
    """Return the names of the objects of a picture as its labels."""
    records = json.loads(listed.content or "[]")
    names = [thing["name"] for record in records for thing in record["objects"]]
    return labels_of([*dict.fromkeys(name for name in names if name.strip())])


def _object(annotation: dict[str, Any], names: dict[Any, str]) -> dict[str, Any]:
    """Return name, corners and segmentation of an object; corners None where it has no box."""
    category, score = annotation.get("category_id"), annotation.get("score", 1)
    if category not in names:
        raise ValueError(f"there is no category {category!r}")
    if score != 1:
        raise ValueError(f"its score {score!r} tells that a detector guessed it")
    segmentation, box = annotation.get("segmentation") or None, annotation.get("bbox")
    corners: dict[str, float | None] = dict.fromkeys(("x0", "y0", "x1", "y1"))
    if box is None and segmentation is None:
        raise ValueError("it has no bbox and no segmentation")
    if box or segmentation is None:
        x, y, width, height = map(float, box or ())
        if not all(map(math.isfinite, (x, y, width, height))):
            raise ValueError(f"{box} is no box")
        corners = {"x0": x, "y0": y, "x1": x + width, "y1": y + height}
    return {"name": names[category], **corners, "segmentation": segmentation}


def _pixels(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) uint8 of a segmentation on a picture of `size`, width and height."""
    if size[0] * size[1] > MAX_PIXELS:
        raise BrokenAnnotation(f"its {size[0]}×{size[1]} pixels are more than {MAX_PIXELS}")
    try:
        return region(segmentation, size).astype(np.uint8)
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenAnnotation(f"a segmentation cannot be read: {error}") from error


def _by_id(pairs: list[tuple[Any, Any]], what: str) -> dict[Any, Any]:
    """Return a mapping of pairs of an id and a value; raises UserError if an id is given twice."""
    by_id: dict[Any, Any] = {}
    for number, value in pairs:
        if number in by_id:
            raise UserError(
                f"two {what} have the id {number!r}, so it is not known which of them annotations "
                "mean: give each an id of its own"
            )
        by_id[number] = value
    return by_id


def _whole(value: Any) -> int:
    """Return a number of pixels as an integer; raises ValueError where it is none."""
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ValueError(f"{value!r} is no number of pixels")
    return int(value)


def _text(value: Any) -> str:
    """Return a text as it is; raises TypeError or ValueError for anything that cannot be stored."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()  # JSON can hold half of a character, which has no UTF-8
    return value
