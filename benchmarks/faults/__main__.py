"""`make faults`; each part has a count, and the defaults take some minutes each."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.faults.damages import flip_bits, swap_files
from benchmarks.faults.hostile import ask_bombs, open_hostile_workspaces
from benchmarks.faults.kills import STAGES, kill_everywhere
from benchmarks.faults.server import server_away
from benchmarks.faults.signals import signal_everywhere
from harness.audits import AUDIT
from harness.inputs import ALL_READERS, fuzz

Said = tuple[str, list[str]]  # what was done, in words, and the problems


def _kills(options: argparse.Namespace, folder: Path) -> Said:
    outcome = kill_everywhere(AUDIT, folder, options.kills, options.seed)
    by_stage = ", ".join(f"{stage} {outcome.kills[stage]}" for stage in STAGES)
    return (
        f"{outcome.kills.total()} kills in {outcome.rounds} audits, {outcome.kept} files that were "
        f"whole at a kill. Hit: {by_stage}"
    ), outcome.problems


def _server(options: argparse.Namespace, folder: Path) -> Said:
    problems = server_away(AUDIT, folder, options.away)
    return (
        f"a Prefect server was away for {options.away:g} s and the time it takes to start"
    ), problems


def _inputs(options: argparse.Namespace, folder: Path) -> Said:
    outcome = fuzz(options.inputs, options.seed)
    kinds = ", ".join(f"{k} {outcome.taken[k]} and {outcome.rejected[k]}" for k in ALL_READERS)
    return (
        f"{outcome.taken.total() + outcome.rejected.total()} broken inputs, at most "
        f"{outcome.memory:.0f} MiB. Taken and rejected: {kinds}"
    ), outcome.problems


def _flips(options: argparse.Namespace, folder: Path) -> Said:
    return flip_bits(AUDIT, folder, options.flips, options.seed)


def _swaps(options: argparse.Namespace, folder: Path) -> Said:
    return swap_files(AUDIT, folder, options.swaps, options.seed)


def _workspaces(options: argparse.Namespace, folder: Path) -> Said:
    return open_hostile_workspaces(AUDIT, folder, options.workspaces, options.seed)


def _signals(options: argparse.Namespace, folder: Path) -> Said:
    return signal_everywhere(AUDIT, folder, options.signals, options.seed)


def _queries(options: argparse.Namespace, folder: Path) -> Said:
    return ask_bombs(folder, options.queries)


PARTS: dict[str, Callable[[argparse.Namespace, Path], Said]] = {
    "kills": _kills,
    "server": _server,
    "inputs": _inputs,
    "flips": _flips,
    "swaps": _swaps,
    "workspaces": _workspaces,
    "signals": _signals,
    "queries": _queries,
}


def main() -> None:
    """Run the parts that are asked for; the exit code is 1 where there is a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--kills", type=int, default=108)
    parser.add_argument("--away", type=float, default=60, help="seconds without a server")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--flips", type=int, default=200, help="for each kind of file")
    parser.add_argument("--swaps", type=int, default=60)
    parser.add_argument("--workspaces", type=int, default=20)
    parser.add_argument("--signals", type=int, default=9)
    parser.add_argument("--queries", type=int, default=1, help="times that each bomb is asked")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console = Console(width=200, highlight=False)
    problems: list[str] = []
    for part in options.only:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            words, wrong = PARTS[part](options, Path(folder))
        console.print(f"{part}: {words}. {time.monotonic() - start:.0f} s", markup=False)
        for problem in wrong:
            console.print(problem, style="red", markup=False)
        problems += wrong
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
