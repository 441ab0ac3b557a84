"""Pictures that lie together in a file: where they lie there, and whether it is still the same.

A location is the file's own, a mark, and numbers that say where in the file the picture lies. A
stamp is the picture's own size in bytes, the file's stamp, and whatever else tells of a change.

A picture is copied from its file into a shard, or stays there: then its numbers are its offset and
its size in bytes, and the shard has the location in place of the picture.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from ttame_core.data.files import stamp
from ttame_core.errors import UserError
from ttame_core.storage import file_system, reaching

INSIDE = re.compile(r"(?P<container>.*)#(?P<mark>inside|stays)=(?P<numbers>[\d,]+)", re.S)
WHERE = "where"  # suffix of the file in a shard that has a picture's location in its place


def inside(container: str, *numbers: int, stays: bool = False) -> str:
    """Return the location of a picture in a file of many.

    Args:
        container: path or URL of the file.
        numbers: numbers that say where in it the picture lies.
        stays: whether shards have the location in place of the picture.
    """
    return f"{container}#{'stays' if stays else 'inside'}={','.join(map(str, numbers))}"


def lies_inside(location: str) -> bool:
    """Say whether a location is that of a picture in a file of many."""
    return bool(INSIDE.fullmatch(location))


def stays(location: str) -> bool:
    """Say whether shards have a location in place of the picture that lies there."""
    found = INSIDE.fullmatch(location)
    return bool(found and found["mark"] == "stays")


def parts_of(location: str) -> tuple[str, tuple[int, ...]]:
    """Return the file of a picture, and the numbers that say where in it the picture lies."""
    found = INSIDE.fullmatch(location)
    if not found:
        raise ValueError(f"{location} is no place in a file of many pictures")
    return found["container"], tuple(map(int, found["numbers"].split(",")))


def read_inside(location: str) -> bytes:
    """Return the bytes of a picture that stays in its file; fewer where the file breaks off.

    Raises:
        OSError: the file cannot be read.
        StoreAway: the store does not answer.
    """
    container, (offset, size) = parts_of(location)
    fs, path = file_system(container)
    with reaching(container, fs):
        return fs.cat_file(path, start=offset, end=offset + size)


def by_container(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, ...]]]:
    """Return where pictures lie, by the file that holds them.

    Args:
        rows: rows of a plan, with location and stamp.

    Raises:
        UserError: a file is not the one of which the plan was made.
    """
    numbers: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    stamps: dict[str, str] = {}
    for row in rows:
        container, where = parts_of(row["location"])
        numbers[container].append(where)
        stamps[container] = row["stamp"]
    for container, planned in stamps.items():
        if not is_same(container, planned):
            raise UserError(
                f"{container} was changed since its pictures were listed: run this again"
            )
    return dict(numbers)


def is_same(container: str, planned: str) -> bool:
    """Say whether a file is the one of which a plan was made.

    Args:
        container: path or URL of the file.
        planned: stamp of a picture in it.
    """
    fs, path = file_system(container)
    try:
        with reaching(container, fs):
            now = stamp(fs.info(path))
    except FileNotFoundError:
        return False
    return f"{planned.partition('/')[2]}/".startswith(f"{now}/")


@contextmanager
def opened(container: str) -> Iterator[IO[bytes]]:
    """Open a file for reading at any place.

    Raises:
        UserError: the file cannot be opened.
        StoreAway: the store does not answer.
    """
    fs, path = file_system(container)
    try:
        with reaching(container, fs):
            stream = fs.open(path, "rb")
    except OSError as error:
        raise UserError(f"{container} cannot be read: {error.strerror or error}") from error
    with stream:
        yield stream
