"""Pictures in a folder for each class, or without labels in a single folder."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import listing, locate, opened, shown, walk
from ttame_core.data.images import is_image
from ttame_core.data.sources.base import Entry, File, Source, file_entry
from ttame_core.data.splits import BESIDE, split_folders
from ttame_core.errors import UserError


class FolderSettings(spec.Section):
    """The keys of a spec for folders; with a folder per split, `path: {train: …, test: …}`."""

    path: spec.Location = Field(
        description="the folder: a path or URL, or one for each split, {train: PLACE, test: PLACE}"
    )


class Folder(Source):
    """A source of the images in `<path>/<class>/`, or where there are none, in `<path>` itself.

    Where `<path>` holds `train/` and `val/` or `test/`, the class folders in these are read.
    """

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
            folders = listing(fs, root)[1]
            splits = {} if split else splits_in(fs, root, folders)
            if not splits:
                yield from in_class_folders(_files(fs, root), split, folders)
                continue
            self.remarks.append(as_splits(root, splits))
            for own, name in splits.items():
                place = posixpath.join(root, name)
                yield from in_class_folders(_files(fs, place), own, listing(fs, place)[1])
            for name in sorted({*folders} - {*splits.values()}):
                yield Entry(shown(name), "", None, None, kind="folder", reason=BESIDE)


def splits_in(fs: Any, root: str, folders: Sequence[str]) -> dict[spec.Split, str]:
    """Return which folder in a folder is which split; none where there are no such folders."""

    def images(folder: str) -> Iterator[str]:
        return filter(is_image, (path for path, *_ in walk(fs, posixpath.join(root, folder))))

    return split_folders(folders, images)


def as_splits(root: str, splits: Mapping[spec.Split, str]) -> str:
    """Say in a sentence that folders are taken as splits."""
    names = ", ".join(f"{name}/ is {split}" for split, name in splits.items())
    return f"{shown(root)} holds folders of splits, and they are taken as such: {names}"


def _files(fs: Any, root: str) -> Iterator[File]:
    for path, location, changed in walk(fs, root):
        yield File(path, location, changed, partial(opened, location))


def in_class_folders(
    files: Iterable[File], split: spec.Split | None, folders: Iterable[str] = ()
) -> Iterator[Entry]:
    """Yield the entries of files in class folders, or of files that lie in no folders at all.

    Args:
        files: files with paths `<class>/…`; those without a folder have no class.
        split: split of the files; None where the shares of the spec decide.
        folders: names of folders that may hold no file.
    """
    filled = dict.fromkeys(folders, False)
    loose = []
    for file in files:
        name, inside, _ = file.path.partition("/")
        entry = file_entry(file, name if inside else None, split)
        if inside:
            filled[name] = filled.get(name, False) or not entry.reason
        elif not entry.reason and filled:
            loose.append(entry)
            continue
        yield entry
    for name, some in filled.items():
        if not some:
            place = shown(f"{split}/{name}" if split else name)
            yield Entry(place, "", None, split, kind="folder", reason="folder without images")
    labelled = any(filled.values())
    for entry in loose:
        yield replace(entry, reason="lies in no class folder" if labelled else "")
