"""Pictures in a folder for each class, or without labels in a single folder."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import listing, locate, real, shown, stamp, walk
from ttame_core.data.images import is_image
from ttame_core.data.sources.base import Entry, Source, image_entry
from ttame_core.errors import UserError


class FolderSettings(spec.Section):
    """The keys of a spec for folders; with a folder per split, `path: {train: …, test: …}`."""

    path: spec.Location


class Folder(Source):
    """A source of the images in `<path>/<class>/`, or where there are none, in `<path>` itself."""

    name = "folder"
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
    """Yield the inputs in a folder and in its class folders."""
    prefix = f"{split}/" if split else ""
    files, folders = listing(fs, root)
    labelled, above = False, frozenset({real(fs, root)})
    for name in folders:
        filled = False
        for path, location, changed in walk(fs, posixpath.join(root, name), above):
            if is_image(path):
                filled = True
                yield image_entry(f"{prefix}{name}/{path}", location, name, split, changed)
        labelled |= filled
        if not filled:
            place, reason = shown(posixpath.join(root, name)), "folder without images"
            yield Entry(prefix + shown(name), place, None, split, kind="folder", reason=reason)
    for name, info in files.items():
        if is_image(name):
            location = fs.unstrip_protocol(posixpath.join(root, name))
            entry = image_entry(prefix + name, location, None, split, stamp(info))
            yield replace(entry, reason=entry.reason or "lies in no class folder" * labelled)
