"""A record's leaderboard stands for the scores until one of them changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query import metric_values, views
from ttame_core.lake.query.boards import scores_state
from ttame_core.lake.query.connection import leaderboard, run_query
from ttame_core.lake.records import board_fingerprint
from ttame_core.lake.schemas import LEADERBOARD
from ttame_core.lake.selection import Selection

RECORD = "audits/nightly/20260101T000000Z"


def _score(lake: Lake, dataset: str, shard: int, seconds: float) -> None:
    row = {"key": f"k{shard}", "label": 0, "predicted": 0, "target": 0, "seconds": seconds}
    path = scores_file("cost", dataset, "net", "e", f"test-{shard:06d}")
    lake.write_parquet(path, [row], schema_of("cost"), "x")


def _record(lake: Lake, state: str, value: float = 42.0) -> None:
    """A record of the data set d, with a value that its scores do not have."""
    names = {"dataset": "d", "backbone": "net", "explainer": "e", "metric": "seconds"}
    row = {**names, "value": value, "ci_low": value, "ci_high": value, "images": 1}
    board = pa.Table.from_pylist([row], LEADERBOARD)
    about = {"dataset": "d", "scores": state, "board": board_fingerprint(board)}
    lake.write_json(f"{RECORD}/record.json", about)
    lake.write_parquet(f"{RECORD}/leaderboard.parquet", board, LEADERBOARD, "x")


def _values(lake: Lake) -> dict[str, float]:
    rows = leaderboard(lake).to_pylist()
    assert rows == run_query(lake, "FROM leaderboard ORDER BY dataset").to_pylist()
    return {row["dataset"]: row["value"] for row in rows}


@pytest.fixture(params=["local", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    lake = Lake(f"memory://{tmp_path.name}" if request.param == "memory" else tmp_path)
    _score(lake, "d", 0, 1.0)
    _score(lake, "other", 0, 7.0)
    return lake


def test_a_record_of_the_same_scores_is_taken_and_other_data_sets_are_worked_out(
    lake: Lake,
) -> None:
    assert _values(lake) == {"d": 1, "other": 7}
    _record(lake, scores_state(lake, "d"))
    assert _values(lake) == {"d": 42, "other": 7}
    _score(lake, "other", 1, 9.0)
    assert _values(lake) == {"d": 42, "other": 8}


def test_an_audit_counts_what_it_means(lake: Lake) -> None:
    """Not other splits, nor explainers and metrics that have left its spec."""
    rows = [{"key": "k9", "label": 0, "predicted": 0, "target": 0, "seconds": 9.0}]
    for explainer, shard in (("e", "val-000000"), ("gone", "test-000000")):
        path = scores_file("cost", "d", "net", explainer, shard)
        lake.write_parquet(path, rows, schema_of("cost"), "x")
    shape = {"complexity": 0.2, "sparseness": 0.5, "thumbnail": np.zeros(196, np.float16)}
    path = scores_file("shape", "d", "net", "e", "test-000000")
    lake.write_parquet(path, [rows[0] | shape], schema_of("shape"), "x")
    selection = Selection("d", "test", {"net"}, {"e"}, {"cost"})
    found = leaderboard(lake, "d", selection).to_pylist()
    assert [(r["explainer"], r["metric"], r["value"]) for r in found] == [("e", "seconds", 1.0)]
    everything = leaderboard(lake, "d").to_pylist()
    assert {(r["explainer"], r["metric"]) for r in everything} > {("gone", "seconds")}
    assert (
        next(r["value"] for r in everything if r["explainer"] == "e" and r["metric"] == "seconds")
        == 5
    )
    nobody = Selection("d", "test", {"net"}, {"nobody"}, {"cost"})
    assert leaderboard(lake, "d", nobody).num_rows == 0
    # A record of all that is there does not stand for a part of it.
    _record(lake, scores_state(lake, "d"))
    assert scores_state(lake, "d", selection) != scores_state(lake, "d")
    assert leaderboard(lake, "d", selection).to_pylist() == found
    assert leaderboard(lake, "d").column("value").to_pylist() == [42]


def test_a_score_more_or_less_or_another_is_seen(lake: Lake) -> None:
    _record(lake, scores_state(lake, "d"))
    _score(lake, "d", 1, 3.0)
    assert _values(lake)["d"] == 2
    lake.remove(scores_file("cost", "d", "net", "e", "test-000001"))
    assert _values(lake)["d"] == 42
    _score(lake, "d", 0, 5.0)  # as large as the one before
    assert _values(lake)["d"] == 5


def test_a_record_that_does_not_say_or_is_broken_is_not_taken(lake: Lake) -> None:
    _record(lake, "")
    assert _values(lake)["d"] == 1
    _record(lake, scores_state(lake, "d"))
    whole = lake.read_bytes(f"{RECORD}/leaderboard.parquet")
    with lake.create(f"{RECORD}/leaderboard.parquet") as path:
        path.write_bytes(whole[:-10])
    assert leaderboard(lake, "d")["value"].to_pylist() == [1]
    with lake.create(f"{RECORD}/leaderboard.parquet") as path:
        path.write_bytes(whole)
    assert _values(lake)["d"] == 42
    with lake.create(f"{RECORD}/record.json") as path:
        path.write_text("{")
    assert _values(lake)["d"] == 1


def test_a_record_of_other_sql_is_worked_out_again(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the SQL is made in Python."""
    _record(lake, scores_state(lake, "d"))
    assert _values(lake)["d"] == 42
    made = metric_values._sums
    monkeypatch.setattr(
        metric_values, "_sums", lambda *given: made(*given).replace('sum("', '2 * sum("')
    )
    views.views.cache_clear()
    try:
        assert _values(lake)["d"] == 2
    finally:
        views.views.cache_clear()


def test_definitions_are_the_same_in_every_process() -> None:
    """Those of tables that are registered for a moment have other names each time."""
    assert views.views.__wrapped__().definitions == views.views.__wrapped__().definitions
