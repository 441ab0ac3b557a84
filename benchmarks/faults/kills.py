"""kill -9 at random moments of every stage.

A kill hits a process group forked from this one, which has done the imports: no stage waits for
an interpreter or for a Prefect server to start. Every stage runs what its Prefect tasks run.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from harness.audits import audit_once, differences, temporary, whole
from ttame_core import spec
from ttame_core.errors import UserError

STAGES = ("shard", "fit", "train", "explain", "evaluate", "report")
KILLS_IN_A_STAGE = 3  # one after another, before the audit may reach the next
PATIENCE = 300  # seconds for an audit that takes a few


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
        except UserError as error:
            print(error, file=sys.stderr)
            status = 2
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


def run_audit(audit: spec.AuditSpec, workspace: Path, checked: bool = True) -> int:
    """Run an audit to its end, and return how it ended: 0, or 2 after a UserError.

    Raises:
        RuntimeError: it did not go through, where that is `checked`.
    """
    running = Audit(audit, workspace)
    running.wait()
    if (ended := running.end()) and checked:
        raise RuntimeError(f"the undisturbed audit ended with {ended}")
    return ended


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
    durations = durations_of(audit, undisturbed)
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


def durations_of(audit: spec.AuditSpec, workspace: Path) -> dict[str, float]:
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
