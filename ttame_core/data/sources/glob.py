"""Images without labels that a pattern of paths finds, or a single picture."""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Iterator

from fsspec.utils import glob_translate
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import by_split, locate, stamp, walk
from ttame_core.data.images import is_image
from ttame_core.data.sources.base import Entry, Source, image_entry
from ttame_core.errors import UserError
from ttame_core.storage import file_system


class GlobSettings(spec.Section):
    """The keys of a spec for patterns such as `photos/**/*.jpg`, or for a picture's path."""

    path: spec.Location


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
    """Yield the images that a pattern finds."""
    prefix, some = f"{split}/" if split else "", False
    for path, location, changed in _files(place):
        some = True
        yield image_entry(prefix + path, location, None, split, changed)
    if not some:
        raise UserError(f"no image is found by {place}: correct `source.path` in the spec")


def _files(place: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path relative to the pattern's fixed part, location, stamp) of the images."""
    if not glob.has_magic(place):
        ((_, fs, path),) = locate(place, "picture")
        yield posixpath.basename(path), fs.unstrip_protocol(path), stamp(fs.info(path))
        return
    fs, pattern = file_system(place)
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = "/".join(parts[:fixed])
    for path, location, changed in walk(fs, root):
        if is_image(path) and re.match(glob_translate("/".join(parts[fixed:])), path):
            yield path, location, changed
