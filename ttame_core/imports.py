"""Imports of large packages, a quarter faster."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quickly() -> Iterator[None]:
    """Import within the block without garbage collections.

    Importing PyTorch, Prefect and timm makes some million objects, none of them garbage, and a
    hundred collections would look through them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
