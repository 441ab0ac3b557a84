"""Stopping a process, so that its half-written files are removed and all others stay."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_half_written: set[Path] = set()
_asked: list[Stopped] = []


class Stopped(BaseException):
    """The exception that ends this process after a signal; like KeyboardInterrupt, no error."""

    def __init__(self, words: str, signal: int) -> None:
        super().__init__(words, signal)
        self.signal = signal

    def __str__(self) -> str:
        return str(self.args[0])


def ask(words: str, signal: int) -> Stopped:
    """Remember that a signal asks this process to end, and return the exception to raise."""
    _asked.append(Stopped(words, signal))
    return _asked[-1]


def asked() -> Stopped | None:
    """Return the Stopped that was raised in this process; None where no signal has come.

    A library that is interrupted may turn it into an error of its own, or into none.
    """
    return _asked[-1] if _asked else None


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Yield a path whose file or folder is removed at the end of this context, however it ends."""
    _half_written.add(path)
    try:
        yield path
    finally:
        _remove(path)
        _half_written.discard(path)


def give_up() -> None:
    """Remove the paths of all open `scratch` contexts, for a process that ends at once."""
    for path in list(_half_written):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():  # a read-only disk refuses to remove even a file that is not there
        path.unlink(missing_ok=True)
