"""A folder for each class."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import locate, shown, walk
from ttame_core.data.images import is_image
from ttame_core.data.sources.base import Entry, Source
from ttame_core.errors import UserError


class FolderSettings(spec.Section):
    """The keys of a spec that set it; with a folder per split, `path: {train: …, test: …}`."""

    path: spec.Location


class Folder(Source):
    """Images in `<path>/<class>/`."""

    name = "folder"
    numbered = False
    settings: FolderSettings
    Settings = FolderSettings

    @override
    def entries(self) -> Iterator[Entry]:
        for split, fs, root in locate(self.settings.path, "image folder"):
            if not fs.isdir(root):
                raise UserError(
                    f"{root} is not a folder: `source.path` must hold a folder per class"
                )
            yield from _in_folder(fs, root, split)


def _in_folder(fs: Any, root: str, split: spec.Split | None) -> Iterator[Entry]:
    """Yield the inputs below one folder of class folders."""
    prefix = f"{split}/" if split else ""
    filled = set()
    for path, location, changed in walk(fs, root):
        if not is_image(path):
            continue
        label, below, _ = path.partition("/")
        entry = Entry(prefix + path, location, label, split, changed)
        if not below:
            entry = Entry(entry.path, location, None, split, reason="lies in no class folder")
        if shown(path) != path:
            entry = Entry(shown(entry.path), "", None, split, reason="its name is not UTF-8")
            label = shown(label)
        filled.add(label)
        yield entry
    for info in fs.ls(root, detail=True):
        place = shown(info["name"].rstrip("/"))
        name = posixpath.basename(place)
        if info["type"] == "directory" and name not in filled and not name.startswith("."):
            reason = "class folder without images"
            yield Entry(prefix + name, place, name, split, kind="folder", reason=reason)
