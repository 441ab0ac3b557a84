"""What the command line costs: each command in a process of its own, from its start to its end."""

from __future__ import annotations

import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from rich.table import Table

from benchmarks.measure import Cost, begin, cost
from benchmarks.versus import TTAME
from harness.audits import AUDIT

COMMANDS = (
    *("--help", "--version", "audti spec.yaml", "audit nowhere.yaml", "explain-image photo.jpg"),
    *('query "SELECT 1"', "status", "status spec.yaml", "audits", "metrics", "explainers"),
    *("compare center gradcam", "verify", "backbones resnet50", "doctor"),
    *("audit spec.yaml --dry-run", "audit spec.yaml"),
)
FIRST = "datasets/*/shards/*.tar"  # what the first stage of an audit leaves first


def compare(rounds: int) -> Table:
    """Medians of rounds in which the commands take turns, on a workspace that an audit made.

    Of an audit from nothing there are two medians: until its first shard is written, and its end.
    """
    table = Table(title="the command line", caption="on a workspace of one small audit")
    table.add_column("ttame …")
    for name in ("s", "processor s", "peak MiB"):
        table.add_column(name, justify="right")
    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        _write_spec(Path(folder))
        for _ in range(rounds):
            shutil.rmtree(Path(folder, "workspace"), ignore_errors=True)
            for command, cost in _round(Path(folder)):
                costs.setdefault(command, []).append(cost)
    for command, taken in costs.items():
        _, seconds, busy, peak = map(statistics.median, zip(*taken, strict=True))
        measured = f"{busy:.2f}" if busy else "", f"{peak:.0f}" if peak else ""
        table.add_row(command, f"{seconds:.2f}", *measured)
    return table


def _write_spec(folder: Path) -> None:
    explainers = [{"method": method} for method in ("ttame", "gradcam", "center")]
    chosen = {"dataset", "backbones", "training", "compute"}
    audit = AUDIT.model_dump(mode="json", include=chosen, exclude_defaults=True)
    text = yaml.safe_dump({"name": "commands", **audit, "explainers": explainers})
    (folder / "spec.yaml").write_text(text)


def _round(folder: Path) -> Iterator[tuple[str, Cost]]:
    """Yield each command with what it cost; the first of them makes the workspace."""
    start = time.perf_counter()
    process = _start("audit spec.yaml", folder)
    while not any(folder.glob(f"workspace/{FIRST}")) and process.poll() is None:
        time.sleep(0.01)
    first = Cost(0, time.perf_counter() - start, 0, 0)
    yield "audit spec.yaml, from nothing to the first shard", first
    yield "audit spec.yaml, from nothing", _cost(process)
    for command in COMMANDS:
        yield command, _cost(_start(command, folder))


def _start(command: str, folder: Path) -> subprocess.Popen[str]:
    return begin([*TTAME, *shlex.split(command)], folder)


def _cost(process: subprocess.Popen[str]) -> Cost:
    taken, _ = cost(process)
    if taken.code not in (0, 2):  # 2: a mistake, as some of them are
        raise RuntimeError(f"{shlex.join(process.args)} failed")
    return taken
