"""Files of a data set on a disk or in an object store: finding, stamping and reading them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from ttame_core import spec
from ttame_core.errors import UserError
from ttame_core.storage import file_system, reaching

# Folders that operating systems and tools leave among a user's folders.
SYSTEM_FOLDERS = frozenset(
    {
        "#recycle",
        "$RECYCLE.BIN",
        "@Recycle",
        "@eaDir",
        "System Volume Information",
        "__MACOSX",
        "__pycache__",
        "lost+found",
    }
)

LARGEST = 2**30  # bytes of a picture


def by_split(location: spec.Location) -> list[tuple[spec.Split | None, str]]:
    """Return each place of a location with its split, which is None for a single place."""
    return [*location.items()] if isinstance(location, dict) else [(None, location)]


def locate(location: spec.Location, what: str) -> list[tuple[spec.Split | None, Any, str]]:
    """Find the files or folders of a source or of annotations.

    Args:
        location: a path or URL, or one for each split.
        what: words for the file or folder in an error message.

    Returns:
        (split, file system, path) of each; split is None where `location` is a single path.

    Raises:
        UserError: a file or folder does not exist, cannot be reached, or is a pipe or a device.
    """
    located: list[tuple[spec.Split | None, Any, str]] = []
    for split, place in by_split(location):
        try:
            fs, path = file_system(place)
            with reaching(place, fs):
                exists = fs.exists(path)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the {what} {place}: {error}") from error
        if not exists:
            raise UserError(f"the {what} {place} does not exist: correct its `path` in the spec")
        if isinstance(fs, LocalFileSystem) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise UserError(
                f"the {what} {place} is a pipe or a device, which may have no end: name a file"
            )
        located.append((split, fs, path.rstrip("/")))
    return located


def walk(fs: Any, root: str, above: frozenset[str] = frozenset()) -> Iterator[tuple[str, str, str]]:
    """Yield (path relative to root, location, stamp) of all files, without hidden ones.

    Links are followed, except back into a folder that leads to the link.

    Args:
        fs: the file system.
        root: folder to begin with.
        above: real paths of the folders that lead to `root`.
    """
    place = real(fs, root)
    if place in above:
        return
    files, folders = listing(fs, root)
    for name, info in files.items():
        yield name, fs.unstrip_protocol(posixpath.join(root, name)), stamp(info)
    for name in folders:
        for path, location, changed in walk(fs, posixpath.join(root, name), above | {place}):
            yield posixpath.join(name, path), location, changed


def real(fs: Any, folder: str) -> str:
    """Return a folder's path with all links resolved."""
    return os.path.realpath(folder) if isinstance(fs, LocalFileSystem) else folder


def listing(fs: Any, folder: str) -> tuple[dict[str, Any], list[str]]:
    """List a folder, with links resolved, and without hidden entries and folders of the system.

    Returns:
        The file system's entry of each file, by name, and the names of the folders, both sorted.

    Raises:
        UserError: the folder cannot be listed.
    """
    files: dict[str, Any] = {}
    folders: list[str] = []
    try:
        with reaching(folder, fs):
            entries = fs.ls(folder, detail=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the folder {shown(folder)} cannot be listed: {reason}") from error
    for info in entries:
        place = info["name"].rstrip("/")
        name = posixpath.basename(place)
        if place == folder or is_hidden(name):
            continue
        if info.get("islink"):
            with suppress(OSError):  # a link that leads nowhere fails when it is read
                info = fs.info(place)
        if info["type"] == "directory":
            folders.append(name)
        else:
            files[name] = info
    return dict(sorted(files.items())), sorted(folders)


def is_hidden(name: str) -> bool:
    """Say whether a file or folder of this name is left out of listings."""
    return (name.startswith(".") and name != "..") or name in SYSTEM_FOLDERS


def shown(path: str) -> str:
    r"""Return a path in which bytes that are not UTF-8 are written as \x…."""
    return path.encode("utf-8", "backslashreplace").decode()


def stamp(info: dict[str, Any]) -> str:
    """Return a text that changes when a file's content does, without reading the content.

    Args:
        info: the file's entry in the listing of its file system.
    """
    when = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return f"{info.get('size')}/{when}"


def read(location: str, most: int = LARGEST) -> bytes:
    """Return the bytes of a file, `most` at most.

    Raises:
        OSError: the file cannot be read, is no plain file, or holds more.
        StoreAway: the store does not answer.
    """
    with opened(location) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(f"it is larger than {most // 2**20} MiB")
    return content


@contextmanager
def opened(location: str) -> Iterator[IO[bytes]]:
    """Open a file for reading.

    Raises:
        OSError: the file cannot be read, or is no plain file.
        StoreAway: the store does not answer.
    """
    fs, path = file_system(location)
    if isinstance(fs, LocalFileSystem) and not os.path.isfile(path):  # a pipe has no end
        os.stat(path)
        raise OSError("it is no plain file")
    with reaching(location, fs), fs.open(path, "rb") as stream:
        yield stream
