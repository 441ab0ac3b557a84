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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq
import torch
from prefect.logging import disable_run_logger
from rich.console import Console

from benchmarks.fuzz import READERS, fuzz
from tasks.evaluate import evaluate
from tasks.explain import explain
from tasks.fit import fit
from tasks.report import report
from tasks.shard import finish, plan, write
from tasks.train import train
from ttame_core import spec
from ttame_core.audits.specification import complete
from ttame_core.explainers import REGISTRY
from ttame_core.lake import Lake
from ttame_core.stages.provenance import Provenance

STAGES = ("shard", "fit", "train", "explain", "evaluate", "report")
KILLS_IN_A_STAGE = 3  # one after another, before the audit may reach the next
PATIENCE = 300  # seconds for an audit that takes a few

AUDIT = complete(
    spec.AuditSpec.model_validate(
        {
            "name": "killed",
            "dataset": {
                "name": "drawn",
                "samples_per_shard": 8,
                "source": {"kind": "shapes", "train": 32, "val": 8, "test": 48, "size": 64},
            },
            "backbones": [
                {
                    "model": "resnet10t",
                    "name": "net",
                    "args": {"channels": [8, 16, 24, 32], "stem_width": 8},
                    "preprocessing": {"input_size": [64, 64]},
                    "fit": {"epochs": 8, "batch_size": 8},
                }
            ],
            "training": {"epochs": 8, "min_steps": 0, "batch_size": 8, "checkpoint_steps": 2},
            "compute": {"device": "cpu", "batch_size": 4, "workers": 2},
        }
    )
)

Enter = Callable[[str], None]  # told which stage begins


# ---- what a workspace holds ------------------------------------------------------------------


def content(workspace: Path) -> dict[str, object]:
    """All files of a lake but the records of single audits."""
    found: dict[str, object] = {}
    for path in sorted(p for p in workspace.rglob("*") if p.is_file()):
        name = str(path.relative_to(workspace))
        if name.startswith("audits/"):
            continue
        found[name] = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            if "metric=cost" in name:  # what a clock says is never the same
                table = table.drop_columns("seconds")
            found[name] = (table.schema.metadata, table.to_pylist())
    return found


def differences(expected: Path, found: Path) -> list[str]:
    """Names of files that only one of two workspaces has, or that differ between them."""
    mine, theirs = content(expected), content(found)
    return [name for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name)]


def temporary(workspace: Path) -> list[str]:
    """Names of files that no finished audit has any use for."""
    patterns = ("*.writing-*", ".*", "checkpoint.pt")
    return sorted({str(p.relative_to(workspace)) for s in patterns for p in workspace.rglob(s)})


def whole(workspace: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of the files whose unit of work is complete: its mark is there.

    The mark is the file that a unit writes last.
    """
    files: list[Path] = list(workspace.glob("datasets/*/plan.parquet"))
    for mark in workspace.glob("datasets/*/shards/[!.]*.parquet"):
        files += [mark, mark.with_suffix(".tar")]
    for mark in workspace.glob("datasets/*/shards.parquet"):
        files += [mark.with_name(f"{n}.parquet") for n in ("index", "annotations", "rejected")]
        files += [mark]
    for mark in [
        *workspace.glob("heads/*/*/*/history.parquet"),
        *workspace.glob("backbones/*/*/history.parquet"),
    ]:
        files += [p for p in mark.parent.glob("[!.]*") if p.name != "checkpoint.pt"]
    for mark in workspace.glob("maps/*/*/*/[!.]*.parquet"):
        cost = Path("scores/metric=cost", *mark.relative_to(workspace).parts[1:])
        files += [mark, workspace / cost]
    files += [
        path
        for path in workspace.glob("scores/*/*/*/*/[!.]*.parquet")
        if "metric=cost" not in path.parts[-5]
    ]
    return {
        str(path.relative_to(workspace)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in files
    }


# ---- an audit that can be killed -------------------------------------------------------------


def audit_once(
    audit: spec.AuditSpec, workspace: str, enter: Enter = lambda stage: None, record: bool = True
) -> None:
    """All stages of flows.audit_zoo, with its tasks, but without Prefect around them."""
    with (
        disable_run_logger(),
        patch("tasks.progress.create_progress_artifact", return_value=None),
        patch("tasks.report.leave_artifacts"),
        ThreadPoolExecutor(audit.compute.workers) as pool,
    ):
        enter("shard")
        shards = plan.fn(audit.dataset, workspace)
        parts = [shards.part([name]) for name in shards.shards]
        list(pool.map(lambda part: write.fn(audit.dataset, workspace, part), parts))
        finish.fn(audit.dataset, workspace, shards)
        provenance = Provenance(audit, Lake(workspace))
        tested = [name for name, _ in provenance.shards(audit.maps.split)]
        enter("fit")
        for backbone in audit.backbones:
            if backbone.fit:
                fit.fn(audit, workspace, backbone)
        enter("train")
        for backbone in audit.backbones:
            for explainer in audit.explainers:
                if REGISTRY[explainer.method].needs_head:
                    train.fn(audit, workspace, backbone, explainer)
        for stage, task in (("explain", explain), ("evaluate", evaluate)):
            enter(stage)
            for backbone in audit.backbones:
                for shard in tested:
                    task.fn(audit, workspace, backbone, [shard])
        if record:
            enter("report")
            report.fn(audit, workspace, {})


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
