"""A sweep through the command line: kept in the lake, gone on with, and asked in SQL."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess]


def _trials(workspace: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (workspace / "sweeps").rglob("*") if p.is_file()}


def test_a_sweep_is_gone_on_with(
    ttame: Run, edit_spec: Callable[[Callable[[dict], None]], Path], tmp_path: Path
) -> None:
    spec_file = edit_spec(lambda spec: spec["training"].update(epochs=1))
    assert ttame("shard", spec_file).returncode == 0
    first = ttame("sweep", spec_file, "--trials", "2")
    assert first.returncode == 0, first.stderr
    before = _trials(tmp_path / "workspace")
    assert set(before) == {"000.parquet", "001.parquet"}  # the heads that were tried are gone
    more = ttame("sweep", spec_file, "--trials", "3")
    assert more.returncode == 0, more.stderr
    assert "points of IC@15 behind the best found" in " ".join(more.stdout.split())
    after = _trials(tmp_path / "workspace")
    assert set(after) == {*before, "002.parquet"}
    assert all(after[name] == before[name] for name in before)
    sql = "SELECT trial, learning_rate, value FROM sweeps WHERE metric = 'AD@15' ORDER BY trial"
    rows = json.loads(ttame("query", sql, "--format", "json").stdout)
    assert [row["trial"] for row in rows] == ["000", "001", "002"]
    assert rows[0]["learning_rate"] == 0.005
    assert all(0 <= row["value"] <= 100 for row in rows)

    edit_spec(lambda spec: spec["training"].update(seed=1))  # all that followed is out of date
    again = ttame("sweep", spec_file, "--trials", "1")
    assert again.returncode == 0, again.stderr
    assert set(_trials(tmp_path / "workspace")) == {"000.parquet"}


def test_a_sweep_needs_images_to_compare_on(
    ttame: Run, edit_spec: Callable[[Callable[[dict], None]], Path]
) -> None:
    spec_file = edit_spec(lambda spec: spec["dataset"]["source"].update(val=0))
    assert ttame("shard", spec_file).returncode == 0
    result = ttame("sweep", spec_file, "--trials", "1")
    assert result.returncode == 2
    assert "a sweep compares heads on the split val" in result.stderr
    assert "Traceback" not in result.stderr
