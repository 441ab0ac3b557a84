"""Errors that the user can mend."""

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
    """The error for an object store that does not answer, for which tasks are tried again."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn errors of writing a file in this context into a UserError with the reason.

    Args:
        path: path of the file, for the message.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: the file's ending is unknown to Pillow
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}") from error


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return ' Did you mean …?' with known names that are like `name`; '' where none is.

    Args:
        name: the unknown name.
        known: the known names.
        count: number of names that are offered, at most.
    """
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""
