"""Signals at random moments to the command, to its group, and to one of its processes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.faults.kills import PATIENCE, run_audit
from harness.audits import differences, temporary
from ttame_core import spec

SOON = 10  # seconds in which all processes end
STARTED = 0.2  # seconds until Python runs: until then a signal ends a process in the system's way
WAYS = ("process", "group", "child")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


def signal_everywhere(
    audit: spec.AuditSpec, folder: Path, signals: int, seed: int
) -> tuple[str, list[str]]:
    """Send signals to `ttame audit`, each to another run, and let a last run go to the end.

    A run goes on where the one before was stopped, until an audit is over; then another begins.

    Args:
        audit: the audit.
        folder: an empty folder.
        signals: number of signals.
        seed: what moments, signals and receivers follow from.

    Returns:
        What was done; and processes that did not end in SOON, wrong exit codes, and files that are
        not as in a workspace that nothing disturbed.
    """
    rng, problems = random.Random(seed), []
    undisturbed, workspace = folder / "undisturbed", folder / "workspace"
    run_audit(audit, undisturbed)
    (folder / "audit.yaml").write_text(audit.model_dump_json())
    begun = time.monotonic()
    _wait(_start(folder, folder / "timed"))
    duration = time.monotonic() - begun
    sent: Counter[str] = Counter()
    slowest = 0.0
    while sent.total() < signals:
        way = WAYS[sent.total() % len(WAYS)]
        what = rng.choice(list(CODES))
        said = f"{what.name} to the {way}, number {sent.total()} of seed {seed}"
        command = _start(folder, workspace)
        time.sleep(rng.uniform(STARTED, duration))
        everyone = _everyone(command.pid)
        if command.poll() is not None:  # the audit was over: the next one begins anew
            problems += _at_the_end(command.returncode, undisturbed, workspace)
            continue
        sent[f"{what.name} to the {way}"] += 1
        _send(command.pid, everyone, way, what, rng)
        begun = time.monotonic()
        if way == "child":  # others go on without it, or the command says what is missing
            if _wait(command, PATIENCE + 5 * duration) is None:
                problems.append(f"{said}: the command did not end")
            everyone = [p for p in everyone if p.pid != command.pid]
            begun = time.monotonic()  # others end once the command has ended
        elif (code := _wait(command)) not in (CODES[what], 0):
            problems.append(f"{said}: the command ended with {code}")
        _, alive = psutil.wait_procs(everyone, timeout=max(1, begun + SOON - time.monotonic()))
        took = time.monotonic() - begun
        slowest = max(slowest, took)
        if alive or took > SOON + 1:
            names = ", ".join(_command_line(process) for process in alive)
            problems.append(f"{said}: the end took {took:.0f} s; alive: {names or 'none'}")
        for process in alive:
            process.kill()
    problems += _at_the_end(_wait(_start(folder, workspace)), undisturbed, workspace)
    ways = ", ".join(f"{count} {way}" for way, count in sorted(sent.items()))
    return f"{sent.total()} signals ({ways}); the slowest end took {slowest:.1f} s", problems


def _at_the_end(code: int | None, undisturbed: Path, workspace: Path) -> list[str]:
    """Say what is wrong with an audit that went to its end, and remove its workspace."""
    problems = [] if code == 0 else [f"an audit that no signal met ended with {code}"]
    problems += [f"{name} differs" for name in differences(undisturbed, workspace)]
    problems += [f"{name} was left behind" for name in temporary(workspace)]
    shutil.rmtree(workspace)
    return problems


def _start(folder: Path, workspace: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows", "audit", f"{folder}/audit.yaml", "--workspace"]
    home = {"PREFECT_HOME": str(folder / "prefect"), "OMP_NUM_THREADS": "1"}
    with (folder / "audit.log").open("ab") as log:
        return subprocess.Popen(
            [*command, str(workspace)],
            env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait(command: subprocess.Popen[bytes], seconds: float = PATIENCE) -> int | None:
    """Return the exit code of a command; None where it had to be killed after some seconds."""
    try:
        return command.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()
        return None


def _everyone(pid: int) -> list[psutil.Process]:
    """Return the process and all that it has started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:80]
    except psutil.NoSuchProcess:
        return "one that has ended since"


def _send(
    pid: int, everyone: list[psutil.Process], way: str, what: signal.Signals, rng: random.Random
) -> None:
    if way == "group":
        os.killpg(pid, what)
    elif way == "process" or len(everyone) < 2:
        os.kill(pid, what)
    else:
        rng.choice(everyone[1:]).send_signal(what)
