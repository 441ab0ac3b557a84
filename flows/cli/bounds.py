"""The most that a command's process takes while it reads what may be a stranger's workspace.

A few bytes of a table can stand for gigabytes. DuckDB counts no single value of gigabytes as
memory, and cannot interrupt the making of one.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer

import duckdb

from tasks.logs import say
from ttame_core.errors import UserError
from ttame_core.lake.query.connection import Limits
from ttame_core.stopping import give_up

SHARE = 3  # of the query's memory, which the whole process may take beyond what it has
GRACE = 10  # seconds after its time in which a query can still end by itself
UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@contextmanager
def held_to(limits: Limits) -> Iterator[None]:
    """Limit the memory and the time of this process while it answers a query.

    Where the query goes on long after its time, the process ends with exit code 2.

    Args:
        limits: the most that the query may take.
    """
    memory = _bytes(limits.memory)
    timer = Timer(limits.seconds + GRACE, _end, [limits.seconds])
    timer.daemon = True
    timer.start()
    try:
        with _taking(None if memory is None else SHARE * memory):
            yield
    finally:
        timer.cancel()


@contextmanager
def reading(memory: str) -> Iterator[None]:
    """Limit the memory of this process while it reads a workspace.

    Args:
        memory: the most that it may take beyond what it has, such as `4GB`.

    Raises:
        UserError: that is not enough, or no size.
    """
    most = _bytes(memory)
    if most is None:
        raise UserError(f"--memory is {memory}, which is no size: write it like 4GB or 500MB")
    try:
        with _taking(most):
            yield
    except (MemoryError, duckdb.OutOfMemoryException) as error:
        raise UserError(
            f"to read this workspace takes more than {memory} of memory, because it is very large "
            "or a table in it expands to far more than its file: raise --memory if it is yours"
        ) from error


@contextmanager
def _taking(memory: int | None) -> Iterator[None]:
    """Limit the address space of this process.

    Args:
        memory: bytes beyond what it has; None for no limit.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        if memory is not None:
            with suppress(OSError, ValueError):  # systems without such sizes, or without the limit
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                most = pages * resource.getpagesize() + memory
                resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _bytes(memory: str) -> int | None:
    """Return the number of bytes of a size such as `2GB`; None for other texts, such as `80%`."""
    size = re.fullmatch(r"([\d.]+) *(\w+)", memory.strip())
    unit = UNITS.get(size[2].upper()) if size else None
    with suppress(ValueError):
        return int(float(size[1]) * unit) if size and unit else None
    return None


def _end(seconds: float) -> None:
    say(f"the query takes more than {seconds:g} s: ask for less, or raise --seconds", "error")
    give_up()
    os._exit(2)
