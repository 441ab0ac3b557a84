"""Ctrl-C and SIGTERM, after which a command ends soon and leaves nothing half written."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from threading import Thread
from types import FrameType

from tasks import logs
from ttame_core.stopping import Stopped, give_up

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WORDS = "stopped: what is whole stays, and the same command goes on from there"


def stop_on_signals() -> None:
    """Let signals raise Stopped in the process of the command line, and end its workers."""
    for number in SIGNALS:
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    for again in SIGNALS:
        signal.signal(again, _end_at_once)
    if logs.for_people():
        logs.say("stopping; Ctrl-C again ends it at once")
    for child in active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid or 0, signal.SIGINT)
    raise Stopped(WORDS, number)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    give_up()
    atexit._run_exitfuncs()  # a temporary Prefect server ends with this process
    os._exit(128 + number)


def end_on_signals() -> None:
    """Let Ctrl-C end a worker's process at once, silently, with nothing half written.

    A thread waits for the signal, because the main thread may spend minutes within a library.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    Thread(target=_end_when_heard, args=(heard,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _end_when_heard(heard: int) -> None:
    (number,) = os.read(heard, 1)
    give_up()
    os._exit(128 + number)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started in this context, until they unblock the signal.

    A terminal sends the signal to all processes: also to workers that are still importing, and to a
    temporary Prefect server, which is needed to the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
