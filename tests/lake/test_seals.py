"""No flipped bit of a Parquet file goes unnoticed, in its data or in its footer."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttame_core.errors import UserError
from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import leaderboard, run_query
from ttame_core.lake.selection import Selection

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.float32())])
ROWS = [{"key": f"k{i:03d}", "value": i / 7} for i in range(200)]


def _flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_no_flipped_bit_gives_other_values(tmp_path: Path) -> None:
    Lake(tmp_path).write_parquet("f.parquet", ROWS, SCHEMA, "x")
    path = tmp_path / "f.parquet"
    whole = path.read_bytes()
    expected = pq.read_table(path)
    noticed = 0
    for bit in range(0, 8 * len(whole), 23):
        _flip(path, bit)
        try:
            assert Lake(tmp_path).read_table("f.parquet").equals(expected)
        except UserError:
            noticed += 1
        path.write_bytes(whole)
    assert noticed > 0.99 * len(range(0, 8 * len(whole), 23))


def test_a_sealed_file_is_a_parquet_file_for_others(tmp_path: Path) -> None:
    Lake(tmp_path).write_parquet("f.parquet", ROWS, SCHEMA, "x", note="hello")
    path = str(tmp_path / "f.parquet")
    assert pq.read_table(path).num_rows == 200
    assert duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(200,)]
    assert Lake(tmp_path).metadata("f.parquet")["note"] == "hello"
    pq.write_table(pa.table({"a": [1]}), path)  # one without a seal is read as it is
    assert Lake(tmp_path).read_table("f.parquet").num_rows == 1


@pytest.mark.parametrize("asks", ["query", "record"])
def test_sql_reads_no_file_that_is_not_as_it_was_written(asks: str, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    name = scores_file("cost", "d", "net", "e", "test-000000")
    rows = [
        {"key": f"k{i}", "label": 0, "predicted": 0, "target": 0, "seconds": float(i)}
        for i in range(100)
    ]
    lake.write_parquet(name, rows, schema_of("cost"), "x")
    sql = "SELECT sum(seconds) AS s FROM cost"
    assert run_query(lake, sql).to_pylist() == [{"s": 4950.0}]
    _flip(tmp_path / name, 8 * 700)
    selection = Selection("d", "test", {"net"}, {"e"}, {"cost"})
    ask = {
        "query": lambda: run_query(Lake(tmp_path), sql),
        "record": lambda: leaderboard(Lake(tmp_path), "d", selection),
    }[asks]
    with pytest.raises(UserError, match=r"test-000000\.parquet is damaged"):
        ask()
