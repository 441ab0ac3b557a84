"""`make faults`: kill -9 at random moments of every stage, a server that goes away, broken inputs.

A kill hits a process group forked from this one, which has done the imports: no stage waits for
an interpreter or for a Prefect server to start. Every stage runs what its Prefect tasks run.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from harness.audits import AUDIT, audit_once, differences, temporary, whole
from harness.inputs import READERS, fuzz
from ttame_core import spec

STAGES = ("shard", "fit", "train", "explain", "evaluate", "report")
KILLS_IN_A_STAGE = 3  # one after another, before the audit may reach the next
PATIENCE = 300  # seconds for an audit that takes a few

# ---- an audit that can be killed -------------------------------------------------------------


class Audit:
    """An audit in a process group of its own."""

    def __init__(self, audit: spec.AuditSpec, workspace: Path) -> None:
        self.entered: dict[str, float] = {}  # stages, and when they began
        self._stages, stages = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(stages)
            return
        os.setsid()
        status = 1
        try:
            torch.set_num_threads(1)
            audit_once(audit, str(workspace), lambda s: os.write(stages, bytes([STAGES.index(s)])))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def wait(self, stage: str | None = None, seconds: float = PATIENCE) -> bool:
        """Until the stage begins, or the end where none is named; False if time runs out first."""
        end = time.monotonic() + seconds
        while stage is None or stage not in self.entered:
            ready, _, _ = select.select([self._stages], [], [], max(0, end - time.monotonic()))
            if not ready:
                return False
            if not (read := os.read(self._stages, 1)):
                return True
            self.entered[STAGES[read[0]]] = time.monotonic()
        return True

    def kill(self) -> int:
        """SIGKILL to the whole group; how it ended, as subprocess.Popen says it."""
        os.killpg(self.pid, signal.SIGKILL)
        return self.end()

    def end(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self._stages)
        return os.waitstatus_to_exitcode(status)


@dataclass
class Outcome:
    """Of many kills. problems: what must not have happened, in words."""

    kills: Counter[str] = field(default_factory=Counter)  # by stage
    rounds: int = 0
    kept: int = 0  # files that were whole at a kill, all still the same at the end
    problems: list[str] = field(default_factory=list)


def kill_everywhere(audit: spec.AuditSpec, folder: Path, kills: int, seed: int) -> Outcome:
    """Kill audits at random moments of each stage, then let each end; what was found in the lakes.

    folder: empty, for the workspaces. A round starts with an empty one, and kills the same audit a
    few times in each stage.
    """
    rng, outcome = random.Random(seed), Outcome()
    undisturbed = folder / "undisturbed"
    in_a_stage = min(KILLS_IN_A_STAGE, -(-kills // len(STAGES)))
    durations = _durations(audit, undisturbed)
    while outcome.kills.total() < kills:
        workspace = folder / f"round-{outcome.rounds}"
        seen: dict[str, tuple[int, int]] = {}
        for stage in (s for s in STAGES for _ in range(in_a_stage)):
            if outcome.kills.total() == kills:
                break
            running = Audit(audit, workspace)
            running.wait(stage)
            running.wait(seconds=rng.uniform(0, durations[stage]))
            hit = list(running.entered)[-1]
            if (ended := running.kill()) == -signal.SIGKILL:
                outcome.kills[hit] += 1
            elif ended:
                outcome.problems.append(f"an audit ended with {ended} in stage {hit}")
            seen = whole(workspace) | seen
        running = Audit(audit, workspace)
        running.wait()
        if ended := running.end():
            outcome.problems.append(f"round {outcome.rounds}: the last run ended with {ended}")
        _compare(outcome, undisturbed, workspace, seen)
    return outcome


def _durations(audit: spec.AuditSpec, workspace: Path) -> dict[str, float]:
    """Seconds of each stage of an audit that nothing disturbs."""
    running = Audit(audit, workspace)
    running.wait()
    times = [*running.entered.values(), time.monotonic()]
    if ended := running.end():
        raise RuntimeError(f"the undisturbed audit ended with {ended}")
    return {s: b - a for s, a, b in zip(STAGES, times[:-1], times[1:], strict=True)}


def _compare(
    outcome: Outcome, expected: Path, found: Path, seen: dict[str, tuple[int, int]]
) -> None:
    now = whole(found)
    for words, names in (
        ("is not as if undisturbed", differences(expected, found)),
        ("was left behind", temporary(found)),
        ("was whole and was made again", [n for n, was in seen.items() if now.get(n) != was]),
    ):
        outcome.problems += [f"round {outcome.rounds}: {name} {words}" for name in names]
    outcome.kept += len(seen)
    outcome.rounds += 1


# ---- a server that goes away -----------------------------------------------------------------


def server_away(audit: spec.AuditSpec, folder: Path, seconds: float) -> list[str]:
    """Stop a real Prefect server in the middle of an audit, and start it again; what went wrong.

    It goes while a classifier is fitted, and comes back when that flow has long ended.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    env = os.environ | {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": address}
    env |= {"OMP_NUM_THREADS": "1"}  # as the undisturbed audit has: sums depend on it
    undisturbed, workspace = folder / "undisturbed", folder / "workspace"
    _durations(audit, undisturbed)
    (folder / "audit.yaml").write_text(audit.model_dump_json())
    program = "from flows.cli import main; main()"
    command = [sys.executable, "-c", program, "audit", f"{folder}/audit.yaml"]
    log = folder / "audit.log"
    with _prefect_server(env, port), log.open("w") as out:
        running = subprocess.Popen(
            [*command, "--workspace", workspace], env=env, stdout=out, stderr=out
        )
        while running.poll() is None and not list(workspace.glob("backbones/*/*/checkpoint.pt")):
            time.sleep(0.05)
    time.sleep(seconds)
    if running.poll() is not None:
        return [f"the audit did not wait for the server: {log.read_text()[-2000:]}"]
    with _prefect_server(env, port):
        ended = running.wait(PATIENCE)
    problems = [f"the audit ended with {ended}: {log.read_text()[-2000:]}"] if ended else []
    return problems + [f"{name} differs" for name in differences(undisturbed, workspace)]


@contextmanager
def _prefect_server(env: dict[str, str], port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet)
    try:
        end = time.monotonic() + PATIENCE
        while not _answers(f"{env['PREFECT_API_URL']}/health"):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the Prefect server did not start")
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5)
    except OSError:
        return False
    return True


# ---- the command -----------------------------------------------------------------------------


def _kills(options: argparse.Namespace, console: Console) -> list[str]:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_everywhere(AUDIT, Path(folder), options.kills, options.seed)
    by_stage = ", ".join(f"{stage} {outcome.kills[stage]}" for stage in STAGES)
    console.print(
        f"{outcome.kills.total()} kills in {outcome.rounds} audits, {outcome.kept} files that were "
        f"whole at a kill, {time.monotonic() - start:.0f} s. Hit: {by_stage}"
    )
    return outcome.problems


def _server(options: argparse.Namespace, console: Console) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        problems = server_away(AUDIT, Path(folder), options.away)
    console.print(
        f"a Prefect server was away for {options.away:g} s and the time it takes to start"
    )
    return problems


def _inputs(options: argparse.Namespace, console: Console) -> list[str]:
    start = time.monotonic()
    found = fuzz(options.inputs, options.seed)
    kinds = ", ".join(f"{k} {found.taken[k]} and {found.rejected[k]}" for k in READERS)
    console.print(
        f"{found.taken.total() + found.rejected.total()} broken inputs, at most "
        f"{found.memory:.0f} MiB, {time.monotonic() - start:.0f} s. Taken and rejected: {kinds}"
    )
    return found.problems


PARTS = {"kills": _kills, "server": _server, "inputs": _inputs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--kills", type=int, default=108)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--away", type=float, default=60, help="seconds without a server")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console = Console(width=200, highlight=False)
    problems = [problem for part in options.only for problem in PARTS[part](options, console)]
    for problem in problems:
        console.print(problem, style="red", markup=False)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
