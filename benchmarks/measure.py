"""Contestants take turns in one process for time, and have one each for memory.

Commands have processes of their own for both.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from harness.memory import give_back, status

Contestants = Mapping[str, Callable[[], object]]
# A process of this one's size would count as its child's peak.
TIMED = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
seconds, busy = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, busy, usage.ru_maxrss / 1024]))
"""


class Cost(NamedTuple):
    """What a command took: its exit code, wall and processor seconds, MiB at the peak."""

    code: int
    seconds: float
    busy: float
    peak: float


def seconds(contestants: Contestants, rounds: int) -> dict[str, list[float]]:
    """Times of each contestant, one per round; the rounds are interleaved, the first is dropped."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, run in contestants.items():
            _wait()
            start = time.perf_counter()
            run()
            _wait()
            times[name].append(time.perf_counter() - start)
    return {name: taken[1:] for name, taken in times.items()}


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """Median over the rounds of the ratio to `base` within the round."""
    pairs = zip(times[name], times[base], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def begin(
    command: Sequence[str], folder: str | Path | None = None, stderr: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """Start a command in a folder, in a process of its own; `cost` waits for its end."""
    words = [sys.executable, "-c", TIMED, *command]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True)


def cost(process: subprocess.Popen[str]) -> tuple[Cost, str]:
    """What a command took that `begin` has started, and what it said where that was piped."""
    said, errors = process.communicate()
    return Cost(*json.loads(said)), errors or ""


def peak_mib(prepare: Callable[..., Contestants], arguments: tuple, name: str) -> float:
    """Peak memory of one run above what was in use before it, in a process of its own; MiB."""
    return apart(_peak, prepare, arguments, name)


def apart(measure: Callable[..., float], *arguments: object) -> float:
    """What a function finds in a process of its own; nan where that fails, which says why."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(send, measure, *arguments))
    child.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        return float("nan")
    finally:
        child.join()


def _send(pipe: Connection, measure: Callable[..., float], *arguments: object) -> None:
    pipe.send(measure(*arguments))


def _peak(prepare: Callable[..., Contestants], arguments: tuple, name: str) -> float:
    run = prepare(*arguments)[name]
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        give_back()  # what was freed in preparation is in use no more
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
        run()
        peak = status("VmHWM") - before
    return max(peak, 0) / 2**20


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
