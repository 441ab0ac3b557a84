"""Files of a data set, on a disk or in an object store: where they are, what changes them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from ttame_core import spec
from ttame_core.errors import UserError
from ttame_core.storage import file_system, reaching


def locate(location: spec.Location, what: str) -> list[tuple[spec.Split | None, Any, str]]:
    """Find the places of a source or of annotations.

    Args:
        location: a path or URL, or one for each split.
        what: is looked for, in the words of an error message.

    Returns:
        (split, file system, path) of each place; split None where there is but one.

    Raises:
        UserError: a place does not exist or cannot be reached.
    """
    found: list[tuple[spec.Split | None, Any, str]] = []
    places: list[tuple[spec.Split | None, str]] = (
        list(location.items()) if isinstance(location, dict) else [(None, location)]
    )
    for split, place in places:
        try:
            fs, path = file_system(place)
            with reaching(place, fs):
                exists = fs.exists(path)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the {what} {place}: {error}") from error
        if not exists:
            raise UserError(f"the {what} {place} does not exist: correct its `path` in the spec")
        found.append((split, fs, path.rstrip("/")))
    return found


def walk(fs: Any, root: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path relative to root, location, stamp) of every file, sorted, but of hidden ones."""
    for folder, folders, files in fs.walk(root, detail=True):
        for name in [n for n in folders if n.startswith(".")]:
            del folders[name]
        for name, info in sorted(files.items()):
            if not name.startswith("."):
                location = posixpath.join(folder, name)
                yield posixpath.relpath(location, root), fs.unstrip_protocol(location), stamp(info)


def shown(path: str) -> str:
    r"""Return a path in which bytes that are no UTF-8 are written as \x…."""
    return path.encode("utf-8", "backslashreplace").decode()


def stamp(info: dict[str, Any]) -> str:
    """Return what tells one content of a file from another without a look into it."""
    when = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return f"{info.get('size')}/{when}"


def read(location: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: the file cannot be read.
        StoreAway: the store does not answer.
    """
    fs, path = file_system(location)
    with reaching(location, fs), fs.open(path, "rb") as stream:
        return stream.read()
