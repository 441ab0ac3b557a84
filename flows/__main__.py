"""The command `ttame`; `python -m flows` is the same."""

from __future__ import annotations

import atexit
import os
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run the command line, which a signal ends without a traceback from its first imports on."""
    for number in SIGNALS:
        signal.signal(number, _end)
    atexit.register(_finish)  # the first to be registered is the last to be called
    from flows.cli import main as run

    run()


def _finish() -> None:
    """Let the process end with the exit code that it has by now, whatever signal still comes.

    Python puts back the default handlers while it ends; a signal would then end the process
    with that signal in place of an exit code.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


if __name__ == "__main__":
    main()
