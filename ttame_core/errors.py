"""Errors that the user can mend."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal takes some for commands


class UserError(Exception):
    """A mistake in what the user gave: one sentence with the thing, its place and the mend.

    The command line prints it without a traceback and exits with 2; tasks do not retry it.
    """


class StoreAway(UserError):
    """The error for an object store that does not answer, for which tasks are tried again."""


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; what is written there replaces `path` when the context ends.

    So do files that a library writes beside it, whose names begin with its name.

    Args:
        path: a file, whose folder is made where there is none; devices and pipes are written as
            they are.

    Raises:
        UserError: the file cannot be written; what was there before stays.
    """
    target = Path(os.path.realpath(path))
    try:
        if _is_special(target):
            yield target
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        # In a new folder of the user's own, nobody can have put a link in the file's place.
        with TemporaryDirectory(prefix=".unfinished-", dir=target.parent) as folder:
            yield Path(folder) / target.name
            for beside in Path(folder).glob(f"{glob.escape(target.name)}?*"):
                beside.replace(target.with_name(beside.name))
            (Path(folder) / target.name).replace(target)
    except (OSError, ValueError) as error:  # ValueError: the file's ending is unknown to Pillow
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}") from error


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def printable(text: str) -> str:
    r"""Return a text in which control characters but line ends and tabs are written as \x…."""
    return CONTROL.sub(lambda character: f"\\x{ord(character[0]):02x}", text)


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return ' Did you mean …?' with known names that are like `name`; '' where none is.

    Args:
        name: the unknown name.
        known: the known names.
        count: number of names that are offered, at most.
    """
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""
