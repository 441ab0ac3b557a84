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

import flows

PATIENCE = 900  # seconds for a process to start and work; Ray alone takes 150 on a busy machine

# Imported where it is needed, and slow at it.
SLOW = [
    "captum.attr",
    "fastapi",
    "matplotlib.backends.backend_svg",
    "pytorch_grad_cam",
    "timm",
    "ttame_core.metrics.contours.compiled",
]


def fork_server(env: Mapping[str, str]) -> ForkServerContext:
    """A server of processes with this environment, in which the flows are imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [*(f"flows.{m.name}" for m in pkgutil.iter_modules(flows.__path__)), *SLOW]
    )
    console = "PREFECT_LOGGING_HANDLERS_CONSOLE"  # read when Prefect is imported
    lines = {f"{console}_CLASS": "tasks.logs.Lines", f"{console}_LEVEL": "INFO"}
    with patch.dict(os.environ, {**env, **lines}, clear=True):
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
        PYTHONPATH.
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
    os.chdir(folder)
    os.environ.update(environment)
    sys.path += filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    if "SLOW_DISK" in environment:
        import slow_disk.sitecustomize  # noqa: F401
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["ttame", *words]
    try:
        pkgutil.resolve_name(program)()
    finally:
        atexit._run_exitfuncs()
