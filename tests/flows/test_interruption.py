"""kill -9 in each stage, run again: the lake is as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import pytest
from forked import PATIENCE

from harness.audits import content, differences, temporary, whole
from ttame_core.lake import Lake
from ttame_core.lake.schemas import INDEX

# A stage is under way when its first file is there.
FIRST_FILES = {
    "shard": "datasets/drawn/shards/*.tar",
    "fit": "backbones/*/*/checkpoint.pt",
    "train": "heads/*/*/*/checkpoint.pt",
    "explain": "maps/*/*/*/*.parquet",
    "evaluate": "scores/*/*/*/*/*.parquet",
}


def _audit(forks: ForkServerContext, spec: Path, workspace: Path) -> BaseProcess:
    log = workspace.parent / f"{workspace.name}.log"
    command = ["audit", spec, "--workspace", workspace]
    return forked.start(forks, command, spec.parent, log, log, {})


def _ends_well(process: BaseProcess) -> None:
    process.join(PATIENCE)
    assert process.exitcode == 0


def _kill_in_stage(process: BaseProcess, workspace: Path, pattern: str) -> None:
    before = set(workspace.glob(pattern))
    deadline = time.monotonic() + PATIENCE
    while not set(workspace.glob(pattern)) - before:
        assert process.is_alive(), f"the audit ended before {pattern} appeared"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -9


@pytest.mark.slow
def test_killed_in_each_stage_and_run_again_gives_the_same_lake(
    forks: ForkServerContext, edit_spec: Callable[..., Path], tmp_path: Path
) -> None:
    def with_fitted_classifier(spec: dict) -> None:
        fitted = {k: v for k, v in spec["backbones"][0].items() if k != "checkpoint"}
        fit = {"epochs": 3, "batch_size": 8, "learning_rate": 0.001}
        spec["backbones"] = [fitted | {"name": "fitted", "fit": fit}]
        spec["explainers"] = ["ttame", "random", "oracle"]
        spec["evaluation"] = {"metrics": ["confidence", "shape"]}

    spec = edit_spec(with_fitted_classifier)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    _ends_well(_audit(forks, spec, undisturbed))
    for pattern in FIRST_FILES.values():
        _kill_in_stage(_audit(forks, spec, disturbed), disturbed, pattern)
    _ends_well(_audit(forks, spec, disturbed))

    assert differences(undisturbed, disturbed) == []
    assert temporary(disturbed) == []
    assert any(name.startswith("scores/") for name in content(undisturbed))


@pytest.mark.long
def test_killed_at_random_moments_of_each_stage(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.faults", "--only", "kills", "--kills", "12"]
    environment = os.environ | {"PYTHONSAFEPATH": ""}  # the bench lies in the working folder
    bench = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=environment
    )
    assert bench.returncode == 0, bench.stdout + bench.stderr
    assert bench.stdout.startswith("kills: 12 kills in ")


def test_the_bench_sees_what_must_not_happen(tmp_path: Path) -> None:
    lakes = [Lake(tmp_path / name) for name in ("undisturbed", "disturbed")]
    for lake in lakes:
        lake.write_parquet("datasets/d/plan.parquet", [], INDEX, "made from")
    expected, found = (Path(lake.url) for lake in lakes)
    seen = whole(found)
    assert seen.keys() == {"datasets/d/plan.parquet"}
    lakes[1].write_parquet("datasets/d/plan.parquet", [], INDEX, "made from")
    (found / "checkpoint.pt").touch()
    (found / ".x.writing-host-1-2").touch()
    assert whole(found) != seen  # made again
    assert temporary(found) == [".x.writing-host-1-2", "checkpoint.pt"]
    assert differences(expected, found) == [".x.writing-host-1-2", "checkpoint.pt"]
