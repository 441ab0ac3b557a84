"""Pictures that lie together in a file: where they lie there, and whether it is still the same.

A location is the file's own, MARK, and numbers that say where in the file the picture lies. A stamp
is the picture's own size in bytes, the file's stamp, and whatever else tells of a change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from ttame_core.data.files import stamp
from ttame_core.errors import UserError
from ttame_core.storage import file_system, reaching

MARK = "#inside="


def inside(container: str, *numbers: int) -> str:
    """Return the location of a picture in a file of many."""
    return f"{container}{MARK}{','.join(map(str, numbers))}"


def parts_of(location: str) -> tuple[str, tuple[int, ...]]:
    """Return the file of a picture, and the numbers that say where in it the picture lies."""
    container, _, numbers = location.rpartition(MARK)
    return container, tuple(map(int, numbers.split(",")))


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
