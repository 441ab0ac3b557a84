"""SQL over a lake made by hand, against numpy; and nothing but reading."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from ttame_core.errors import UserError
from ttame_core.lake import Lake, maps_file, scores_file
from ttame_core.lake.families import schema_of, schemas
from ttame_core.lake.query import connection
from ttame_core.lake.query.connection import Limits, answer, connect, leaderboard, run_query
from ttame_core.lake.query.formats import write_result
from ttame_core.lake.query.views import FILES
from ttame_core.lake.schemas import LEADERBOARD, maps_schema
from ttame_core.metrics import THRESHOLDS, drop, gain, increase

COUNT = 40
KEEP = (100.0, 15.0)


@pytest.fixture(params=["plain", "a space and 'quote' [x]", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    memory = request.param == "memory"
    lake = Lake(f"memory://{tmp_path.name}" if memory else tmp_path / request.param)
    rng = np.random.default_rng(0)
    for explainer in ("ttame", "random", "oracle"):
        confidence, places, maps = [], [], []
        for i in range(COUNT):
            label, predicted = int(i % 4), int(i % 4 if i % 5 else 0)
            for target in (predicted, predicted + 1):  # top-2: only the first counts
                about = {"key": f"k{i:02d}", "label": label, "predicted": predicted}
                about["target"] = target
                p = 0.0 if i == 3 else float(np.float32(rng.random()))
                for keep in KEEP:
                    q = float(np.float32(rng.random()))
                    confidence.append(about | {"keep": keep, "fill": "zero", "p": p, "p_masked": q})
                if i < 30:
                    scores = {"pointing_game": bool(rng.random() < 0.7)}
                    scores["energy_in_box"] = float(np.float32(rng.random()))
                    scores["box_iou"] = rng.random(len(THRESHOLDS), dtype=np.float32).tolist()
                    places.append(about | scores)
                heat = np.zeros(4, dtype=np.float16)
                maps.append(about | {"probability": p, "height": 2, "width": 2, "map": heat})
        where = ("18", explainer, "test-000000")  # a backbone whose name is a number
        for family, rows in (("confidence", confidence), ("localization", places)):
            lake.write_parquet(scores_file(family, "d", *where), rows, schema_of(family), "x")
        lake.write_parquet(maps_file("d", *where), maps, maps_schema(2, 2), "x")
    return lake


def _rows(lake: Lake, family: str, explainer: str) -> list[dict]:
    path = scores_file(family, "d", "18", explainer, "test-000000")
    rows = lake.read_table(path).to_pylist()
    return [row for row in rows if row["target"] == row["predicted"]]


def test_leaderboard_against_numpy(lake: Lake) -> None:
    import torch

    board = {(r["explainer"], r["metric"]): r for r in leaderboard(lake).to_pylist()}
    assert {r["backbone"] for r in board.values()} == {"18"}
    functions = {"AD": drop, "IC": increase, "AG": gain}
    drops = {}
    for explainer in ("ttame", "random", "oracle"):
        rows = _rows(lake, "confidence", explainer)
        for keep in KEEP:
            chosen = [r for r in rows if r["keep"] == keep]
            p, q = (torch.tensor([r[c] for r in chosen]).double() for c in ("p", "p_masked"))
            for name, function in functions.items():
                values = function(p, q).numpy()
                found = board[explainer, f"{name}@{keep:g}"]
                assert found["images"] == COUNT
                assert np.isclose(found["value"], values.mean())
                _assert_interval(found, values)
            if keep == 15:
                drops[explainer] = drop(p, q).numpy()
        places = _rows(lake, "localization", explainer)
        for name in ("pointing_game", "energy_in_box"):
            values = 100 * np.array([r[name] for r in places], dtype=float)
            found = board[explainer, name]
            assert found["images"] == 30
            assert np.isclose(found["value"], values.mean())
            _assert_interval(found, values)
        overlaps = 100 * np.array([r["box_iou"] for r in places])
        best = overlaps[:, overlaps.mean(axis=0).argmax()]
        assert np.isclose(board[explainer, "box_iou"]["value"], best.mean())
        _assert_interval(board[explainer, "box_iou"], best)
    distance = drops["random"] - drops["oracle"]
    found = board["-", "discrimination"]
    assert np.isclose(found["value"], distance.mean())
    rows = _rows(lake, "confidence", "ttame")
    right = np.mean([r["label"] == r["predicted"] for r in rows])
    assert np.isclose(board["-", "accuracy"]["value"], 100 * right)
    assert board["-", "accuracy"]["images"] == COUNT


def _assert_interval(found: dict, values: np.ndarray) -> None:
    """Near scipy's percentile bootstrap: both are random, and of some hundreds of replicates."""
    reference = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    width = reference.high - reference.low
    assert abs(found["ci_low"] - reference.low) < 0.25 * width
    assert abs(found["ci_high"] - reference.high) < 0.25 * width


def test_an_answer_that_cannot_spill_takes_more_memory_than_it_should(tmp_path: Path) -> None:
    text = "SELECT length(string_agg(i::VARCHAR, '' ORDER BY i)) AS n FROM range(1000000) AS r(i)"
    with connect(Lake(tmp_path)) as db:
        db.execute("SET memory_limit = '16MB'")
        with pytest.raises(duckdb.OutOfMemoryException):
            db.sql(text).to_arrow_table()
        assert answer(db, text).to_pylist() == [{"n": 5_888_890}]


def test_macros_on_any_slice(lake: Lake) -> None:
    answer = run_query(
        lake,
        "SELECT label, AD(p, p_masked) AS ad, IC(p, p_masked) AS ic FROM confidence "
        "WHERE keep = 15 AND explainer = 'ttame' AND target = predicted GROUP BY label ORDER BY 1",
    ).to_pylist()
    rows = [r for r in _rows(lake, "confidence", "ttame") if r["keep"] == 15 and r["label"] == 2]
    lost = [100 * max(0, r["p"] - r["p_masked"]) / r["p"] for r in rows if r["p"]]
    assert [r["label"] for r in answer] == [0, 1, 2, 3]
    assert np.isclose(answer[2]["ad"], sum(lost) / len(rows))
    assert np.isclose(answer[2]["ic"], 100 * np.mean([r["p_masked"] > r["p"] for r in rows]))


def test_partitions_are_text(lake: Lake) -> None:
    answer = run_query(lake, "SELECT DISTINCT backbone, typeof(backbone) AS t FROM maps")
    assert answer.to_pylist() == [{"backbone": "18", "t": "VARCHAR"}]


def test_an_empty_lake_has_empty_views(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for view in (
        *FILES,
        *schemas(),
        "predictions",
        "leaderboard",
        "metric_values",
        "ranks",
        "refusals",
    ):
        assert run_query(lake, f"FROM {view}").num_rows == 0
    assert run_query(lake, "FROM leaderboard").column_names == LEADERBOARD.names
    described = run_query(lake, "DESCRIBE maps").to_pylist()
    assert [r["column_type"] for r in described if r["column_name"] == "map"] == ["FLOAT[]"]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (a INT)",
        "COPY leaderboard TO 'x.csv'",
        "ATTACH 'x.db'",
        "SET enable_external_access = true",
        "SELECT 1; SELECT 2",
        "INSTALL httpfs",
        "DELETE FROM leaderboard",
        "",
    ],
)
def test_only_reading(tmp_path: Path, sql: str) -> None:
    with pytest.raises(UserError, match="SELECT"):
        run_query(Lake(tmp_path), sql)


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_csv('/etc/passwd')",
        "FROM read_text('/etc/passwd')",
        "FROM glob('/etc/*')",
        "FROM '/etc/passwd.csv'",
    ],
)
def test_nothing_outside_the_workspace_is_read(lake: Lake, sql: str) -> None:
    with pytest.raises(UserError, match="SQL error"):
        run_query(lake, sql)


def test_sql_errors_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SQL error.*nothing"):
        run_query(Lake(tmp_path), "SELECT nothing FROM samples")
    with pytest.raises(UserError, match="SQL error"):
        run_query(Lake(tmp_path), "SELEKT 1")


def test_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = pa.table({"a": [1, 2], "b": [0.123456789, None], "c": [[1.0] * 9, []]})
    write_result(result, "csv")
    assert capsys.readouterr().out.splitlines()[0] == "a,b,c"
    write_result(result, "json")
    assert json.loads(capsys.readouterr().out)[0]["b"] == 0.123456789
    write_result(result, "table")
    shown = capsys.readouterr().out
    assert "0.123457" in shown
    assert "…" in shown
    write_result(pa.table({"a|b": [0.5], "c": [None]}), "markdown")
    assert capsys.readouterr().out == "| a\\|b | c |\n| --- | --- |\n| 0.5 |  |\n"
    write_result(result, "parquet", str(tmp_path / "x.parquet"))
    assert pq.read_table(tmp_path / "x.parquet").equals(result)
    with pytest.raises(UserError, match="--output"):
        write_result(result, "parquet")
    with pytest.raises(UserError, match="Did you mean csv"):
        write_result(result, "cvs")
    with pytest.raises(UserError, match="cannot write"):
        write_result(result, "csv", str(tmp_path / "x.parquet/x.csv"))


@pytest.mark.parametrize(
    ("sql", "limits", "words"),
    [
        ("FROM range(300000000)", Limits(rows=10), "more than 10 rows"),
        (
            "SELECT max(hash(a.range, b.range)) FROM range(1000000) a, range(1000000) b",
            Limits(seconds=1),
            "takes more than 1 s",
        ),
        ("SELECT list(range) FROM range(300000000)", Limits(memory="50MB"), "Out of Memory"),
    ],
)
def test_a_query_takes_no_more_than_its_limits(
    sql: str, limits: Limits, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        run_query(Lake(tmp_path), sql, limits)


@pytest.mark.parametrize(("replaced", "answered"), [(2, True), (3, False)])
def test_a_query_whose_files_are_replaced_is_asked_again(
    replaced: int, answered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [duckdb.IOException("the file was replaced")] * replaced
    ask = connection._ask

    def asked(*arguments: Any) -> pa.Table:
        if faults:
            raise faults.pop()
        return ask(*arguments)

    monkeypatch.setattr(connection, "_ask", asked)
    with nullcontext() if answered else pytest.raises(UserError, match="was replaced"):
        assert run_query(Lake(tmp_path), "SELECT 1 AS one").num_rows == 1


def test_names_are_no_commands_of_a_terminal_and_no_formulas(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["\x1b[2Jcat", "=1+1", "@SUM(A1)", "-", "-3", "+a", "dog"]
    for kind in ("table", "markdown"):
        write_result(pa.table({"class": names}), kind)
        said = capsys.readouterr().out
        assert "\x1b" not in said
        assert "\\x1b[2Jcat" in said
    write_result(pa.table({"class": names[1:]}), "csv")
    assert capsys.readouterr().out == "class\n'=1+1\n'@SUM(A1)\n-\n-3\n'+a\ndog\n"


def test_an_output_file_is_whole_or_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new folder/answer.parquet"
    write_result(pa.table({"a": [1]}), "parquet", str(path))
    before = path.read_bytes()

    def fails(_: pa.Table, where: Path) -> None:
        Path(where).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fails)
    with pytest.raises(UserError, match=r"answer\.parquet: No space left on device"):
        write_result(pa.table({"a": [2]}), "parquet", str(path))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["answer.parquet"]
