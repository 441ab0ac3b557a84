"""Ctrl-C and SIGTERM, after which a command ends soon and leaves nothing half written."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from threading import Event, Thread
from types import FrameType

from tasks import logs
from ttame_core.stopping import ask, give_up

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 6.0  # seconds in which a command ends by itself once a signal has come
said = Event()  # set when the command has said that it was stopped
WORDS = "stopped: what is whole stays, and the same command goes on from there"
signalled = Event()  # set when a signal has come, also where the main thread does not hear of it


def stop_on_signals() -> None:
    """Let signals raise Stopped in the process of the command line, and end its workers.

    A second thread ends the process where the main thread has not ended within some seconds
    (PATIENCE), for example because it is within a library.
    """
    for number in SIGNALS:
        signal.signal(number, _stop)
    Thread(target=_end_in_time, args=(_hearing(),), daemon=True).start()


def _hearing() -> int:
    """Return the reading end of a pipe that gets the number of each signal that is handled."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    return heard


def _end_in_time(heard: int) -> None:
    while (number := os.read(heard, 1)[0]) not in SIGNALS:
        pass
    signalled.set()
    time.sleep(PATIENCE)
    if not said.is_set():
        logs.say(WORDS, "error")
    end(128 + number)


def end(code: int) -> None:
    """End this process and its workers without delay; remove half-written files.

    Its temporary server ends after it, by itself (flows/temporary_server.py).

    Args:
        code: the process's exit code.
    """
    give_up()
    for child in active_children():
        child.kill()
    os._exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    for again in SIGNALS:
        signal.signal(again, _end_at_once)
    if logs.for_people():
        logs.say("stopping; Ctrl-C again ends it at once")
    for child in active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid or 0, signal.SIGINT)
    raise ask(WORDS, number)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    end(128 + number)


def end_on_signals() -> None:
    """Let signals end a worker's process without delay or message, and leave no half-written files.

    A thread waits for the signal, because the main thread may spend minutes within a library.
    """
    heard = _hearing()
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)
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
