"""Standard error for messages alone, with --quiet or as JSON, while a command runs.

Libraries write there by themselves: in Python, in C, where the file descriptor is all that they
know, and in processes that they start. Such lines become messages, or with --quiet nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from tasks.logs import console, is_json, is_quiet, say

END = "\x1e\n"  # a line that a library does not write
OURS = '{"time": '  # how the messages of worker processes begin


@contextmanager
def messages_alone() -> Iterator[None]:
    """Keep standard error for this program's messages, where quiet or JSON was chosen.

    Messages go where standard error led before. What else is written to it comes through a pipe, of
    which a thread makes messages; at the end all is as before, so that errors are seen.
    """
    if not (is_quiet() or is_json()):
        yield
        return
    sys.stderr.flush()
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    with open(os.dup(2), "w", buffering=1, encoding=encoding, errors=errors) as own:
        reading, writing = os.pipe()
        os.dup2(writing, 2)
        os.close(writing)
        ended = Event()
        Thread(target=_listen, args=(reading, ended), daemon=True).start()
        console.file = own
        try:
            yield
        finally:
            with suppress(BrokenPipeError):  # nobody listens where messages can go nowhere
                sys.stderr.flush()
                os.write(2, f"\n{END}".encode())
                ended.wait(1)
            os.dup2(own.fileno(), 2)
            console.file = None  # type: ignore[assignment]  # as at first: where sys.stderr leads


def _listen(reading: int, ended: Event) -> None:
    with open(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line == END:
                ended.set()
            elif ended.is_set() or not line.strip() or is_quiet():
                continue
            elif line.startswith(OURS):
                console.file.write(line)
            else:
                say(line.strip())
