"""Imports of large packages, in three quarters of the time."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from ttame_core.errors import UserError


@contextmanager
def quickly() -> Iterator[None]:
    """Import within the block without garbage collections, and without those of a process's end.

    Importing PyTorch, Prefect and timm makes some million objects, none of them garbage. A hundred
    collections would look through them, and a few more, for a second, when the process ends.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def library(name: str) -> ModuleType:
    """Import a large library `quickly`.

    Raises:
        UserError: the library is broken or not there, as timm is where torchvision is broken.
    """
    try:
        with quickly():
            return import_module(name)
    except Exception as error:
        raise UserError(
            f"{name} cannot be imported ({error}): run `ttame doctor`, which says what to install"
        ) from error
