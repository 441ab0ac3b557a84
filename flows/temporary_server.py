"""The Prefect server that a command starts for itself where no other is named.

It starts while the command imports PyTorch. Prefect would start one as well, but only when it is
first asked for something, and it imports all of a server's code into the command for that.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from flows.stopping import deaf_children, end, signalled
from tasks import logs
from ttame_core.errors import UserError
from ttame_core.imports import quickly
from ttame_core.stopping import asked

ENDED = (
    "Prefect's temporary server has ended, without which nothing more can be recorded: what is "
    "whole stays, and the same command goes on from there"
)
UNSTARTED = (
    "Prefect's temporary server ends as soon as it is started: run `ttame doctor`, or `prefect "
    "server start`, which says why; or set PREFECT_API_URL to a server that runs"
)
LATE = (
    "Prefect's temporary server did not start in time: run again, or start one (prefect server "
    "start) and set PREFECT_API_URL"
)
# A shell's program: at its input's end it asks a process to end, and after two seconds ends it.
GUARD = """
cat; kill "$1"
for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; kill -0 "$1" || exit; done
kill -9 "$1"
"""
TRIES = 3  # servers that end as soon as they are started, each with a port of its own


@dataclass
class _Server:
    """A server's process, the shell that ends it, and its address."""

    process: subprocess.Popen[bytes]
    guard: subprocess.Popen[bytes]
    url: str

    def stop(self) -> None:
        """End the server; called when this process ends by itself."""
        self.guard.kill()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5 if asked() is None else 2)
        self.process.kill()


_server: _Server | None = None


def begin() -> None:
    """Start a server and do not wait for it; nothing where there is one, or another is named.

    Raises:
        UserError: a server cannot work here; the sentence is that of `ttame doctor`.
    """
    with quickly():
        from prefect.settings import PREFECT_API_URL

    from flows.doctor import temporary_server

    if _server or PREFECT_API_URL.value():
        return
    if (found := temporary_server()).state == "broken":
        raise UserError(f"{found.words}: {found.advice}")
    _start()


def wait() -> None:
    """Wait until the server that was begun answers, and name it to Prefect; nothing without one.

    Raises:
        UserError: the server does not start.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    patience = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    deadline, tries = time.monotonic() + patience, 1
    while _server and not _answers(_server):
        if _server.process.poll() is not None:
            if tries == TRIES:
                raise UserError(UNSTARTED)
            tries += 1
            _start()
        if time.monotonic() > deadline:
            raise UserError(LATE)
        time.sleep(0.05)
    if _server:
        os.environ |= {"PREFECT_API_URL": _server.url, "PREFECT_UI_URL": ""}  # it has no pages
        refresh_global_settings_context()


def is_there() -> bool:
    """Say whether this process has started a server of its own."""
    return _server is not None


@contextmanager
def no_longer_than_it() -> Iterator[None]:
    """End this process with exit code 1 when its own server has ended.

    Prefect would ask the server again for many minutes. After a signal, which may have ended the
    server too, the process ends by that signal.
    """
    over = Event()
    thread = Thread(target=_watch, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(over: Event) -> None:
    while not over.wait(1.0):
        if _server and _server.process.poll() is not None:
            if over.wait(1.0) or signalled.is_set():
                return
            logs.say(ENDED, "error")
            end(1)


def _start() -> None:
    """Start a server in a thread, which no signal interrupts while the server has no guard yet."""
    starting = Thread(target=_start_guarded)
    starting.start()
    starting.join()


def _start_guarded() -> None:
    """Start a server, and a shell that ends it when this process ends, also where it is killed.

    The shell waits for the end of a pipe that this process holds open.
    """
    global _server
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with deaf_children():
        process = subprocess.Popen(_command(port), env=_environment())
    waits = ["/bin/sh", "-c", GUARD, "sh", str(process.pid)]
    null = subprocess.DEVNULL
    guard = subprocess.Popen(
        waits, stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True
    )
    if _server:
        atexit.unregister(_server.stop)
        _server.stop()
    _server = _Server(process, guard, f"http://127.0.0.1:{port}/api")
    atexit.register(_server.stop)


def _command(port: int) -> list[str]:
    """Return the command of a server, as Prefect's own temporary servers have it.

    Without `--app-dir`, a module in the working folder would be imported.
    """
    folder = str(Path(__file__).parents[1])
    return [
        *(sys.executable, "-m", "uvicorn", "--app-dir", folder),
        *("--factory", "flows.temporary_server:application"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"),
    ]


def application() -> Any:
    """Return Prefect's server; called in its own process."""
    with quickly():
        from prefect.server.api.server import create_app

        return create_app()


def _environment() -> dict[str, str]:
    from prefect.settings import get_current_settings

    chosen = get_current_settings().to_environment_variables(exclude_unset=True)
    as_temporary = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return {**os.environ, "PREFECT_UI_ENABLED": "0", **as_temporary, **chosen}


def _answers(server: _Server) -> bool:
    """Say whether a server has started and is healthy."""
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=5):
            return server.process.poll() is None  # else it is another's, on the same port
    except OSError:
        return False
