"""Contestants take turns in one process for time, and have one each for memory."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from harness.memory import give_back, status

Contestants = Mapping[str, Callable[[], object]]


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
