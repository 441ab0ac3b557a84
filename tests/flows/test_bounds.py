"""A query takes no more than its limits, where DuckDB itself does not keep to them."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.bounds import held_to, reading
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import Limits, run_query

ENDLESS = """
import sys, time
from flows.cli import bounds
from ttame_core.lake.query.connection import Limits
bounds.GRACE = 0
with bounds.held_to(Limits("1GB", 10, 0.5)):
    time.sleep(60)
"""


def test_a_value_of_gigabytes_is_refused(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    limits = Limits("100MB", 10, 60)
    bomb = "SELECT range(1000000000)"
    with held_to(limits), pytest.raises(UserError, match="Memory"):
        run_query(Lake(tmp_path), bomb, limits)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize("memory", ["80%", "much", "2 GB"])
def test_a_query_within_its_limits_is_answered(memory: str, tmp_path: Path) -> None:
    with held_to(Limits(memory)):
        assert run_query(Lake(tmp_path), "SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_what_cannot_be_interrupted_ends_with_its_process() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "takes more than 0.5 s" in ended.stderr


def test_reading_a_workspace_takes_no_more_than_is_allowed(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    lake = Lake(tmp_path)
    text = pa.DictionaryArray.from_arrays(np.zeros(900_000, np.int32), ["x" * 2**20])
    pq.write_table(pa.table({"key": text}), tmp_path / "index.parquet", store_schema=False)
    assert (tmp_path / "index.parquet").stat().st_size < 2**21  # for 900 GB
    with pytest.raises(UserError), reading("300MB"):
        lake.read_table("index.parquet")
    with pytest.raises(UserError, match="takes more than 300MB of memory"), reading("300MB"):
        bytearray(2**30)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with pytest.raises(UserError, match="which is no size"), reading("much"):
        pass
