"""Images without labels that a pattern of paths finds, or a single picture."""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Iterator
from functools import partial

from fsspec.utils import glob_translate
from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import by_split, locate, opened, stamp, walk
from ttame_core.data.sources.base import Entry, File, Source, file_entry
from ttame_core.errors import UserError
from ttame_core.storage import file_system


class GlobSettings(spec.Section):
    """The keys of a spec for patterns such as `photos/**/*.jpg`, or for a picture's path."""

    path: spec.Location = Field(
        description="the pattern, such as `/data/**/*.jpg`, or one for each split"
    )


class Glob(Source):
    """A source of the images that a pattern of paths finds, without labels."""

    name = "glob"
    settings: GlobSettings
    Settings = GlobSettings

    @override
    def entries(self) -> Iterator[Entry]:
        for split, place in by_split(self.settings.path):
            yield from _found(place, split)


def _found(place: str, split: spec.Split | None) -> Iterator[Entry]:
    """Yield the files that a pattern finds; one that is named itself is taken for an image."""
    if not glob.has_magic(place):
        ((_, fs, path),) = locate(place, "picture")
        location, changed = fs.unstrip_protocol(path), stamp(fs.info(path))
        name = posixpath.basename(path)
        yield Entry(f"{split}/{name}" if split else name, location, None, split, changed)
        return
    some = False
    for file in _files(place):
        entry = file_entry(file, None, split)
        some = some or entry.kind == "image"
        yield entry
    if not some:
        raise UserError(f"no image is found by {place}: correct `source.path` in the spec")


def _files(place: str) -> Iterator[File]:
    """Yield the files that a pattern finds, with paths relative to its fixed part."""
    fs, pattern = file_system(place)
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    wanted = re.compile(glob_translate("/".join(parts[fixed:])))
    for path, location, changed in walk(fs, "/".join(parts[:fixed])):
        if wanted.match(path):
            yield File(path, location, changed, partial(opened, location))
