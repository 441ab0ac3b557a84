"""Text files that list images and their labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import locate
from ttame_core.data.sources.base import Entry, Source
from ttame_core.data.sources.named import NamedImages
from ttame_core.errors import UserError


class ListSettings(spec.Section):
    """The keys of a spec that set it; paths in the files are relative to `root`."""

    path: spec.Location
    root: spec.Place


class List(Source):
    """Lines of `path label`, as ImageNet's."""

    name = "list"
    settings: ListSettings
    Settings = ListSettings

    @override
    def entries(self) -> Iterator[Entry]:
        images = NamedImages(self.settings.root)
        for split, fs, path in locate(self.settings.path, "list"):
            with fs.open(path, "r", encoding="utf-8") as lines:
                for number, line in enumerate(_text(lines, path), start=1):
                    if not line.strip():
                        continue
                    try:
                        image, label = line.strip().rsplit(maxsplit=1)
                    except ValueError as error:
                        raise UserError(
                            f"{path}, line {number}: {line.strip()!r} is not `path label`"
                        ) from error
                    yield images.entry(image, label, split, f"{path}, line {number}")


def _text(lines: Any, path: str) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise UserError(f"the list {path} is not UTF-8 text: {error}") from error
