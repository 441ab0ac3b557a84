"""Boxes in COCO JSON files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from typing_extensions import override

from ttame_core.data.annotations.base import Box, Boxes, Listed, Picture
from ttame_core.data.files import locate, stamp
from ttame_core.errors import UserError


class Coco(Boxes):
    """A COCO file with the boxes of all pictures, which are matched by file name."""

    name = "coco"

    @override
    def listed(self) -> Iterator[Listed]:
        for _, fs, path in locate(self.settings.path, "COCO file"):
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
                bare = re.sub(r"\.[^./]*\Z", "", name)
                yield Listed(name, bare, "", boxes[number], changed)

    @override
    def annotate(self, listed: Listed, picture: Picture, label: str) -> tuple[list[Box], None]:
        return listed.boxes or [], None


def _text(value: Any) -> str:
    """Return a text as it is; raises TypeError or ValueError for anything that cannot be stored."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()  # JSON can hold half of a character, which has no UTF-8
    return value
