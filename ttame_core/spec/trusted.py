"""What the user of a machine allows to run code on it, named in the environment.

A spec may come from anybody, so no key of a spec grants this.
"""

from __future__ import annotations

import os
from pathlib import Path

from ttame_core.spec.base import is_folder

TRUSTED = "TTAME_TRUST"  # names with commas between them


def is_trusted(name: str) -> bool:
    """Say whether the user trusts what has this name.

    Args:
        name: of a module or a function (`package.module`, `package.module:function`), a model's
            folder, or the address of a cluster. A folder may be written in several ways.
    """
    return _in_one_way(name) in map(_in_one_way, _names())


def trust(*names: str) -> None:
    """Trust what the user names elsewhere, in this process and in those that it starts."""
    os.environ[TRUSTED] = ",".join([*_names(), *names])


def _names() -> list[str]:
    stripped = (name.strip() for name in os.environ.get(TRUSTED, "").split(","))
    return [name for name in stripped if name]


def _in_one_way(name: str) -> str:
    """Return the whole path of a folder without links, and any other name as it is."""
    return str(Path(name).expanduser().resolve()) if is_folder(name) else name
