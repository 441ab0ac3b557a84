"""Text files that list images and their labels."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import locate, shown
from ttame_core.data.images import is_image
from ttame_core.data.sources.base import Entry, Source
from ttame_core.data.sources.named import NamedImages
from ttame_core.errors import UserError


class ListSettings(spec.Section):
    """The keys of a spec for lists; paths in the files are relative to `root`."""

    path: spec.Location = Field(description="the file, or one for each split")
    root: spec.Place = Field(description="folder that image paths are relative to")


class List(Source):
    """A source whose files have lines `path label`, as ImageNet's, or lines with only a path."""

    name = "list"
    settings: ListSettings
    Settings = ListSettings

    @override
    def entries(self) -> Iterator[Entry]:
        images = NamedImages(self.settings.root)
        for split, fs, path in locate(self.settings.path, "list"):
            labelled: bool | None = None
            with fs.open(path, "r", encoding="utf-8-sig", errors="surrogateescape") as lines:
                for number, line in enumerate(lines, start=1):
                    if not line.strip():
                        continue
                    where = f"{path}, line {number}"
                    if shown(line) != line:
                        raise UserError(f"{where}: {shown(line.strip())!r} is not UTF-8 text")
                    image, label = _parts(line.strip())
                    labelled = label is not None if labelled is None else labelled
                    if labelled and label is None:
                        raise UserError(
                            f"{where}: {line.strip()!r} has no label, but the lines above have "
                            "one: write `path label` in every line, or only paths"
                        )
                    if label is not None and not labelled:
                        raise UserError(
                            f"{where}: {line.strip()!r} has a label, and the lines above have "
                            "none: write `path label` in every line, or only paths"
                        )
                    yield images.entry(image, label, split, where)


def _parts(line: str) -> tuple[str, str | None]:
    """Split a line into path and label; the label is None where the line is only a path.

    A label may have spaces where a tab stands before it.
    """
    image, *label = line.rsplit("\t" if "\t" in line else None, maxsplit=1)
    own = label[0].strip() if label else None
    return (image.strip(), own) if own and not is_image(own) else (line, None)
