"""Errors that are the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake in what the user gave: one sentence with the thing, its place and the mend.

    The command line prints it without a traceback and exits with 2; tasks do not retry it.
    """


class StoreAway(UserError):
    """An object store that does not answer: trying again may help, so tasks do."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise UserError with the reason where a file cannot be written in this context."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: Pillow knows no such ending
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}") from error


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return ' Did you mean …?' with the known names nearest to `name`, or ''."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""
