"""The Prefect server that a command starts for itself: it ends with the command, and vice versa."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from forked import PATIENCE

# A command that waits for its server, or works beside it.
SERVES = """
import sys
from flows import cli, temporary_server
def command(port):
    print(port, flush=True)
    return [sys.executable, "-S", "-c", sys.argv[2]]
def app():
    temporary_server.begin()
    print(temporary_server._server.process.pid, flush=True)
    if sys.argv[1] == "starting":
        temporary_server.wait()
    with temporary_server.no_longer_than_it():
        sys.stdin.read()
temporary_server._command = command
cli.app = app
cli.main()
"""
REAL = """
from flows import temporary_server
temporary_server.begin()
temporary_server.begin()
temporary_server.wait()
from prefect import flow
@flow(log_prints=True)
def hello():
    print("hello")
hello()
print(temporary_server._server.process.pid)
"""
SLEEPS, ENDS = "import time; time.sleep(600)", "raise SystemExit(1)"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Python with some code and arguments, where no Prefect server is named."""
    free = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    pipe = subprocess.PIPE
    started = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", *arguments]
        env = free | {"PREFECT_HOME": str(tmp_path)}
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()


def _server_of(command: subprocess.Popen[str]) -> psutil.Process:
    _, server = (int(command.stdout.readline()) for _ in ("port", "process"))
    return psutil.Process(server)


def _has_ended(server: psutil.Process) -> bool:
    _, alive = psutil.wait_procs([server], timeout=PATIENCE)
    return alive == []


@pytest.mark.parametrize(
    ("state", "number"), [("starting", signal.SIGKILL), ("started", signal.SIGTERM)]
)
def test_it_ends_with_a_command_that_is_stopped(
    start: Start, state: str, number: signal.Signals
) -> None:
    command = start(SERVES, state, SLEEPS)
    server = _server_of(command)
    command.send_signal(number)
    command.wait(timeout=PATIENCE)
    assert _has_ended(server)


def test_a_command_ends_when_it_does(start: Start) -> None:
    command = start(SERVES, "started", SLEEPS)
    _server_of(command).kill()
    assert command.wait(timeout=PATIENCE) == 1
    assert "temporary server has ended" in command.stderr.read()


def test_a_command_ends_where_servers_end_at_once(start: Start) -> None:
    command = start(SERVES, "starting", ENDS)
    out, said = command.communicate(timeout=PATIENCE)
    assert command.returncode == 2
    assert "temporary server ends as soon as it is started" in said
    port, _, *others = out.split()
    assert len({port, *others}) == 3  # a port for each


def test_prefect_reports_to_it(start: Start, tables: Path, tmp_path: Path) -> None:
    """A module of another in the working folder is none of the server's."""
    shutil.copy(tables, tmp_path)  # of PREFECT_HOME
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('a module of the working folder ran')")
    command = start(REAL)
    out, said = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, said
    assert "hello" in said
    assert "View at" not in said  # it has no pages
    assert not psutil.pid_exists(int(out.split()[-1]))
