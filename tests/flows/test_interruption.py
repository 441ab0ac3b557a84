"""kill -9 in each stage, run again: the lake is as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

# A stage is under way when its first file is there.
FIRST_FILES = {
    "shard": "datasets/drawn/shards/*.tar",
    "fit": "backbones/*/*/checkpoint.pt",
    "train": "heads/*/*/*/checkpoint.pt",
    "explain": "maps/*/*/*/*.parquet",
    "evaluate": "scores/*/*/*/*/*.parquet",
}


def _content(workspace: Path) -> dict[str, object]:
    """All files of a lake but the records of single audits."""
    content: dict[str, object] = {}
    for path in sorted(p for p in workspace.rglob("*") if p.is_file()):
        name = str(path.relative_to(workspace))
        if name.startswith("audits/"):
            continue
        content[name] = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            if "metric=cost" in name:  # what a clock says is never the same
                table = table.drop_columns("seconds")
            content[name] = (table.schema.metadata, table.to_pylist())
    return content


def _audit(spec: Path, workspace: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from flows.cli import main; main()", "audit", str(spec)]
    log = (workspace.parent / f"{workspace.name}.log").open("ab")
    return subprocess.Popen(
        [*command, "--workspace", str(workspace)], env=env, stdout=log, stderr=log
    )


def _kill_in_stage(process: subprocess.Popen[bytes], workspace: Path, pattern: str) -> None:
    before = set(workspace.glob(pattern))
    deadline = time.monotonic() + 200
    while not set(workspace.glob(pattern)) - before:
        assert process.poll() is None, f"the audit ended before {pattern} appeared"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9


@pytest.mark.slow
def test_killed_in_each_stage_and_run_again_gives_the_same_lake(
    server: dict[str, str], edit_spec: Callable[..., Path], tmp_path: Path
) -> None:
    def with_fitted_classifier(spec: dict) -> None:
        fitted = {k: v for k, v in spec["backbones"][0].items() if k != "checkpoint"}
        fit = {"epochs": 3, "batch_size": 8, "learning_rate": 0.001}
        spec["backbones"].append(fitted | {"name": "fitted", "fit": fit})

    spec = edit_spec(with_fitted_classifier)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert _audit(spec, undisturbed, server).wait(300) == 0
    for pattern in FIRST_FILES.values():
        _kill_in_stage(_audit(spec, disturbed, server), disturbed, pattern)
    assert _audit(spec, disturbed, server).wait(300) == 0

    expected, found = _content(undisturbed), _content(disturbed)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert any(name.startswith("scores/") for name in expected)
