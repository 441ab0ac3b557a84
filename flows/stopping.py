"""Ctrl-C and SIGTERM, after which a command ends soon and leaves nothing half written."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import active_children
from threading import Event, Thread
from types import FrameType

from tasks import logs
from ttame_core.stopping import ask, give_up

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 8.0  # seconds in which a command ends by itself once a signal has come
said = Event()  # set when the command has said that it was stopped
WORDS = "stopped: what is whole stays, and the same command goes on from there"
SERVERLESS = (
    "Prefect's temporary server has ended, without which nothing more can be recorded: what is "
    "whole stays, and the same command goes on from there"
)
UNSTARTED = (
    "Prefect's temporary server ends as soon as it is started: run `ttame doctor`, or `prefect "
    "server start`, which says why; or set PREFECT_API_URL to a server that runs"
)
TRIES = 2  # temporary servers that end at once, before no other is tried
PORT_TAKEN = 3  # exit code of a server that could not be set up, for example because of its port
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
    _end(128 + number)


def _end(code: int) -> None:
    """End this process and those that it has started without delay; remove half-written files."""
    give_up()
    for child in active_children():
        child.kill()
    for server in _servers():
        server.kill()
    os._exit(code)


def _servers() -> list[subprocess.Popen[bytes]]:
    """Return the temporary Prefect servers that this process has started.

    Another thread may just be importing Prefect's module, or making a server.
    """
    module = sys.modules.get("prefect.server.api.server")
    made = getattr(getattr(module, "SubprocessASGIServer", None), "_instances", {})
    processes = (getattr(server, "server_process", None) for server in list(made.values()))
    return [process for process in processes if process is not None]


def servers_end_with_this_process() -> AbstractContextManager[None]:
    """Let temporary Prefect servers end when this process does, also where it is killed.

    A thread looks for those that are started in this context, from their first moment.
    """
    return _beside(_guard)


@contextmanager
def _beside(watch: Callable[[Event], None]) -> Iterator[None]:
    """Run a watch in a thread; its event is set when the context ends, which waits for it."""
    over = Event()
    thread = Thread(target=watch, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _guard(started: Event) -> None:
    """Give each server a shell that waits for the end of a pipe which this process holds open.

    Prefect starts one server after another where they end with a certain code, and waits for one
    that ended otherwise: this process ends instead.
    """
    guarded: set[int] = set()
    last = False
    while not last:
        last = started.wait(0.01)
        for server in _servers():
            if server.pid not in guarded:
                guarded.add(server.pid)
                _end_with_this_process(server)
            tried = len(guarded) > TRIES
            if (tried or server.poll() not in (None, PORT_TAKEN)) and not signalled.is_set():
                logs.say(UNSTARTED, "error")
                _end(2)


def _end_with_this_process(server: subprocess.Popen[bytes]) -> None:
    waits = ["/bin/sh", "-c", 'cat; kill "$1"; sleep 3; kill -9 "$1"', "sh", str(server.pid)]
    null = subprocess.DEVNULL
    guard = subprocess.Popen(
        waits, stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True
    )
    atexit.register(guard.kill)  # runs before Prefect ends the server itself


def no_longer_than_servers() -> AbstractContextManager[None]:
    """End this process with exit code 1 when a temporary Prefect server of its own has ended.

    Prefect would ask the server again for many minutes. After a signal, which may have ended the
    server too, the process ends by that signal.
    """
    return _beside(_watch_servers)


def _watch_servers(over: Event) -> None:
    while not over.wait(1.0):
        if any(server.poll() is not None for server in _servers()):
            if over.wait(1.0) or signalled.is_set():
                return
            logs.say(SERVERLESS, "error")
            _end(1)


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
    _end(128 + number)


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
