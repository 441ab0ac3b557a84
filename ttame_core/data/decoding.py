"""Calls about the files of strangers in a process of its own, which may die of them.

A decoder that a file leads astray may crash, fill the memory or never end. In its own process, with
limits, that costs the file and nothing else. The process imports Pillow and NumPy alone, so that it
starts quickly, and stays for the next file.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from threading import Thread
from typing import Any, Concatenate, ParamSpec, TypeVar

from ttame_core.data.images import BrokenImage

P = ParamSpec("P")
T = TypeVar("T")

SECONDS = 60  # of processor time for one file: a picture of the most pixels takes some ten
MEMORY = 6 * 2**30  # bytes of address space; a picture of the most pixels takes up to half of it
IDLE = 30  # seconds without a file after which a process ends
ROOT = Path(__file__).parents[2]  # of the package


def apart(
    function: Callable[Concatenate[bytes, str, P], T],
    data: bytes,
    name: str,
    *args: P.args,
    **options: P.kwargs,
) -> T:
    """Call a function on a file in a process of its own, which the file may crash.

    A file counts as broken when a second, new process dies of it as well: something else may have
    ended the first.

    Args:
        function: a function of a module that imports quickly, such as those of `images`.
        data: content of the file, the first argument.
        name: name of the file, the second argument.
        args: further arguments.
        options: further arguments by name.

    Returns:
        What the function returns.

    Raises:
        BrokenImage: processes die of the file.
        RuntimeError: no process can be started.
        Exception: whatever the function raises.
    """
    try:
        process = _take()
        return process.call(function, data, name, args, options)
    except _Died:
        process = _Process()
    try:
        return process.call(function, data, name, args, options)
    except _Died as died:
        raise BrokenImage(name, str(died)) from died


class _Died(Exception):
    """The error for a process that has ended without an answer, with the reason."""


class _Process:
    """A process that calls functions for this one."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        path = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # signals to the group are for those that give work
            )
            theirs.close()
            self._connection.recv()
        except (OSError, EOFError) as error:
            raise RuntimeError(f"no process can be started to decode pictures: {error}") from error

    def call(self, function: Callable[..., T], *given: Any) -> T:
        """Call a function there, and take the process back into the idle ones."""
        try:
            self._connection.send((SECONDS, function, *given))
            worked, answer = self._connection.recv()
        except (OSError, EOFError) as error:
            raise _Died(self._words()) from error
        except BaseException:  # a signal: what the process would answer next is of this call
            self._process.kill()
            raise
        _idle.append(self)
        if worked:
            return answer
        raise answer

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def _words(self) -> str:
        ended = self._process.wait()
        self._connection.close()
        if ended == -signal.SIGPROF:
            return f"decoding it takes more than {SECONDS} s"
        with suppress(ValueError):
            return f"decoding it ends the process ({signal.Signals(-ended).name})"
        return f"decoding it ends the process (exit code {ended})"


_idle: list[_Process] = []
os.register_at_fork(after_in_child=_idle.clear)  # they answer the parent


def _take() -> _Process:
    while True:
        try:
            process = _idle.pop()
        except IndexError:
            return _Process()
        if process.is_alive():
            return process


# ---- in the other process --------------------------------------------------------------------


def serve(connection: Connection) -> None:
    """Answer calls until there are none, or until the process that sends them ends.

    Args:
        connection: of two ends; calls come through it, and answers go.
    """
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with suppress(OSError):  # where memory runs out, the system should end this process
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(OSError, ValueError):  # some systems know no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what C libraries say of broken pictures
    connection.send("ready")
    while connection.poll(IDLE):
        seconds, function, data, name, args, options = connection.recv()
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends this process
        try:
            answer = True, function(data, name, *args, **options)
        except Exception as error:
            answer = False, error
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(answer)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(Connection(int(sys.argv[1])))
