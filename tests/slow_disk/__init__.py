"""A disk that takes a moment until a file is whole, so that tests meet it half written."""

from __future__ import annotations

import os
from pathlib import Path


def slow_in(*folders: str) -> dict[str, str]:
    """Environment of a process whose disk is slow in these folders of the workspace."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SLOW_DISK": ":".join(folders)}
