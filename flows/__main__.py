"""The command `ttame`; `python -m flows` is the same."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line, which a signal ends without a traceback from its first imports on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    from flows.cli import main as run

    run()


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
