"""Processes that have everything imported from the start, for tests that run many commands."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from prefect.context import refresh_global_settings_context
from prefect.logging.configuration import setup_logging
from worked_out import forget_families

PATIENCE = 900  # seconds for a process to start and work; Ray alone takes 150 on a busy machine


def fork_server(env: Mapping[str, str]) -> ForkServerContext:
    """A server of processes with this environment, in which the flows are imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    console = "PREFECT_LOGGING_HANDLERS_CONSOLE"  # read when Prefect is imported
    lines = {f"{console}_CLASS": "tasks.logs.Lines", f"{console}_LEVEL": "INFO"}
    path = os.pathsep.join([str(Path(__file__).parent), env.get("PYTHONPATH", "")])
    with patch.dict(os.environ, {**env, **lines, "PYTHONPATH": path}, clear=True):
        forkserver.ensure_running()
    return context


def start(
    context: ForkServerContext,
    arguments: Iterable[object],
    folder: Path,
    out: Path,
    err: Path,
    environment: Mapping[str, str],
    program: str = "flows.cli:main",
) -> BaseProcess:
    """`ttame ARGUMENTS` in that folder; what it says is added to the two files.

    environment: beyond the server's own; nothing that is read when a module is imported, but for
        PYTHONPATH and Prefect's settings.
    """
    words = [str(argument) for argument in arguments]
    place = folder, out, err
    process = context.Process(target=_program, args=(program, words, *place, dict(environment)))
    process.start()
    return process


def run(
    context: ForkServerContext,
    arguments: Iterable[object],
    folder: Path,
    environment: Mapping[str, str],
    timeout: float,
    program: str = "flows.cli:main",
) -> subprocess.CompletedProcess[str]:
    """The same to its end; or another program, by the function that a script of it calls."""
    with TemporaryDirectory() as apart:
        files = Path(apart, "out"), Path(apart, "err")
        process = start(context, arguments, folder, *files, environment, program)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        said = [path.read_text() for path in files]
    return subprocess.CompletedProcess(list(arguments), process.exitcode, *said)


def _program(
    program: str, words: list[str], folder: Path, out: Path, err: Path, environment: dict[str, str]
) -> None:
    assert "preloaded" in sys.modules  # a server of processes says nothing of a failed import
    os.chdir(folder)
    os.environ.update(environment)
    if path := environment.get("PYTHONPATH"):
        sys.path += path.split(os.pathsep)
        forget_families()
    if any(name.startswith("PREFECT") for name in environment):
        refresh_global_settings_context()
        setup_logging()
    if "SLOW_DISK" in environment:
        import slow_disk.sitecustomize  # noqa: F401
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["ttame", *words]
    try:
        pkgutil.resolve_name(program)()
    finally:
        atexit._run_exitfuncs()
