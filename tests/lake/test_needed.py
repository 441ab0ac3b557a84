"""A question is answered from the files that it needs, as it would be from all files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query import connection, needed
from ttame_core.lake.query.boards import scores_state
from ttame_core.lake.query.connection import Limits, connect, leaderboard, run_query
from ttame_core.lake.query.variables import literal
from ttame_core.lake.query.views import PARTITIONS, kinds
from ttame_core.lake.records import board_fingerprint
from ttame_core.lake.schemas import LEADERBOARD, REFUSED

RECORD = "audits/nightly/20260101T000000Z"
# Some names begin with others: the order of paths is not that of names.
NAMES = {"dataset": ("birds", "birds-2"), "backbone": ("net", "net.b"), "explainer": ("g++", "g")}
VALUES = {"fill": "zero", "role": "rival", "keep": 15.0, "object_share": 0.2}
QUESTIONS = [
    "SELECT 1 AS one",
    "FROM maps WHERE dataset = 'birds' AND backbone = 'net' AND explainer = 'g'",
    "FROM maps WHERE dataset = 'birds' OR probability > 0.5",
    "FROM maps WHERE dataset IN ('birds', 'nothing') AND explainer NOT IN ('g')",
    "FROM maps WHERE dataset = 'nothing'",
    "FROM maps WHERE dataset <> E'a\\ndataset = ''\\nb'",
    "FROM maps WHERE dataset IN (SELECT dataset FROM samples)",
    "FROM maps WHERE dataset NOT IN (SELECT dataset FROM samples WHERE key = 'k0')",
    "FROM maps WHERE dataset = (SELECT min(dataset) FROM confidence)",
    "FROM maps AS m WHERE EXISTS (FROM shape AS s WHERE s.key = m.key AND s.backbone = 'net')",
    "FROM (FROM maps LIMIT 3) WHERE dataset = 'birds-2'",
    "FROM (SELECT backbone AS dataset, dataset AS backbone FROM maps) WHERE dataset = 'net'",
    "FROM (SELECT key AS dataset FROM maps) WHERE dataset = 'birds'",
    "FROM (SELECT *, row_number() OVER (ORDER BY filename, key) AS n FROM files_maps) "
    "WHERE dataset = 'birds-2'",
    "FROM maps WHERE dataset = 'birds' UNION ALL FROM maps WHERE backbone = 'net.b'",
    "FROM maps WHERE dataset = 'birds' EXCEPT FROM maps WHERE explainer = 'g'",
    "WITH x AS MATERIALIZED (FROM maps) FROM x WHERE dataset = 'birds' UNION ALL FROM x",
    "WITH RECURSIVE n AS (SELECT 0 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) "
    "FROM n JOIN maps ON label = i WHERE dataset = 'birds'",
    "SELECT a.key, b.key FROM maps AS a LEFT JOIN shape AS b "
    "ON a.key = b.key AND a.dataset = 'birds' AND b.explainer = 'g' WHERE b.backbone IS NULL",
    "FROM maps POSITIONAL JOIN (FROM shape WHERE dataset = 'birds-2')",
    "SELECT count(*), count(*) FILTER (WHERE dataset = 'birds') FROM maps",
    "SELECT dataset, backbone, count(*) FROM maps GROUP BY ROLLUP (dataset, backbone) "
    "HAVING dataset = 'birds'",
    "FROM confidence WHERE fill = 'zero' ORDER BY ALL DESC LIMIT 5",
    "SUMMARIZE FROM confidence WHERE backbone = 'net'",
    "DESCRIBE maps",
    "DESCRIBE files_maps",
    "SHOW TABLES",
    "FROM duckdb_views() WHERE NOT internal AND NOT temporary",
    "FROM query('FROM maps WHERE dataset = ''birds''')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM maps WHERE label = 1'))",
    "FROM glob('lake://maps/*/*/*/*')",
    "SELECT filename FROM read_parquet('lake://maps/*/*/*/*.parquet', filename = true)",
    f"FROM 'lake://{RECORD}/leaderboard.parquet'",
    "FROM files_confidence WHERE metric = 'confidence' AND dataset = 'birds'",
    "FROM partitions WHERE explainer = 'g'",
    "FROM recorded_boards WHERE dataset = 'birds-2'",
    "FROM samples WHERE list_contains(getvariable('recorded_boards'), dataset)",
    "EXPLAIN FROM maps WHERE dataset = 'birds'",
    "FROM explainers WHERE dataset = 'birds' AND role = 'rival'",
    "FROM refusals WHERE dataset = 'birds'",
    "FROM refusals JOIN maps USING (dataset) WHERE maps.backbone = 'net'",
    "FROM predictions WHERE dataset = 'birds' AND backbone = 'net'",
    "FROM pasted WHERE dataset = 'birds'",
    "FROM heads WHERE explainer = 'g'",
    "FROM audits WHERE dataset = 'birds'",
    "FROM samples WHERE dataset = 'birds'",
    "FROM metrics",
    "FROM leaderboard WHERE dataset = 'birds' AND backbone = 'net' AND explainer = 'g'",
    "FROM leaderboard WHERE dataset = 'birds-2'",
    "FROM leaderboard WHERE dataset = 'birds' AND metric = 'seconds' UNION ALL "
    "FROM leaderboard WHERE dataset = 'birds-2' AND backbone = 'net'",
    "SELECT a.value, b.value FROM leaderboard AS a JOIN leaderboard AS b USING (metric, explainer) "
    "WHERE a.dataset = 'birds' AND b.dataset = 'birds-2' AND a.backbone = b.backbone",
    "FROM ranks WHERE dataset = 'birds-2'",
    "FROM trust WHERE dataset = 'birds' AND backbone = 'net' AND explainer = 'g'",
    "FROM disagreement WHERE explainer_a = 'g' AND dataset = 'birds'",
    "FROM by_object_size WHERE backbone = 'net'",
    "FROM metric_values WHERE dataset = 'birds' AND backbone = 'net.b' AND explainer = 'g++'",
    "SELECT AD(p, p_masked) FROM confidence WHERE explainer = 'g' GROUP BY dataset",
    "FROM map_changes('nightly/20260101T000000Z', 'nightly/20260101T000000Z')",
    "PIVOT leaderboard ON metric IN ('seconds') USING max(value) GROUP BY dataset, explainer",
]
ERRORS = [
    "FROM nowhere",
    "SELECT nothing FROM maps WHERE dataset = 'birds'",
    "SELEC 1",
    "SELECT 'x'::INTEGER",
    "SELECT key::INTEGER FROM maps WHERE dataset = 'birds'",
    "FROM maps WHERE dataset::INTEGER = 3",
    "SELECT error('no') FROM maps WHERE backbone = 'net'",
    "FROM 'lake://nothing.csv'",
    "FROM map_changes('a')",
    "EXPLAIN FROM nowhere",
    "; FROM nowhere",
]


def _value(field: pa.Field, rng: np.random.Generator) -> Any:
    kind = field.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else 4
        return [_value(kind.field(0), rng) for _ in range(size)]
    if pa.types.is_string(kind):
        return f"{field.name} {rng.integers(2)}"
    if pa.types.is_boolean(kind):
        return bool(rng.integers(2))
    if pa.types.is_integer(kind):
        return int(rng.integers(2))
    return np.float16(rng.random()) if pa.types.is_float16(kind) else float(rng.random())


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Files of every kind; the leaderboard of a record stands for the scores of one data set."""
    lake = Lake(tmp_path_factory.mktemp("asked"))
    rng = np.random.default_rng(0)
    for pattern, schema, partitions in kinds().values():
        own = [column for column in partitions if column in NAMES]
        for names in product(*(NAMES[column] for column in own)):
            path = pattern.replace("audits/*/*", RECORD).replace("datasets/*", "datasets/birds")
            for column, name in zip(own, names, strict=True):
                path = path.replace(f"{column}=*", f"{column}={name}")
            rows = [
                {field.name: _value(field, rng) for field in schema}
                | VALUES
                | {"key": f"k{number}", "step": number}
                for number in range(3)
            ]
            about = {REFUSED: "why"} if path.startswith("maps/") else {}
            for shard in ("test-0", "val-0") if "*" in path else ("",):
                lake.write_parquet(path.replace("*", shard), rows, schema, "x", **about)
    board = leaderboard(lake, "birds")
    board = board.set_column(4, "value", pa.array([42.0] * len(board))).cast(LEADERBOARD)
    about = {"dataset": "birds", "scores": scores_state(lake, "birds")}
    lake.write_json(f"{RECORD}/record.json", about | {"board": board_fingerprint(board)})
    lake.write_parquet(f"{RECORD}/leaderboard.parquet", board, LEADERBOARD, "x")
    return lake


@pytest.fixture(scope="module")
def whole(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for which all files were listed."""
    with connect(lake, confined=Limits()) as db:
        yield db


def _rows(answer: pa.Table) -> list[str]:
    """The rows in any order, to 9 digits: sums in another order differ in the last ones."""
    rows = map(str, answer.to_pylist())
    return sorted(re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]):.9g}", row) for row in rows)


@pytest.mark.parametrize("sql", QUESTIONS)
def test_the_answer_is_that_of_all_files(
    lake: Lake, whole: duckdb.DuckDBPyConnection, sql: str
) -> None:
    assert _rows(run_query(lake, sql)) == _rows(whole.sql(sql).limit(1000).to_arrow_table())


def test_rows_come_in_the_order_of_all_files(lake: Lake, whole: duckdb.DuckDBPyConnection) -> None:
    sql = "SELECT filename, key FROM files_maps WHERE explainer <> 'h'"
    rows = run_query(lake, sql).to_pylist()
    assert rows == whole.sql(sql).to_arrow_table().to_pylist()
    assert len(rows) == 48


@pytest.mark.parametrize("sql", ERRORS)
def test_the_error_is_that_of_all_files(
    lake: Lake, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for _ in range(2):
        with pytest.raises(UserError) as error:
            run_query(lake, sql)
        said.append(str(error.value))
        monkeypatch.setattr(connection, "needed", lambda *_: needed.everything())
    assert said[0] == said[1]


# ---- whatever the condition ------------------------------------------------------------------

# What DuckDB takes a name in a path for.
FOLDERS = {
    "a": "a",
    "b-c": "b-c",
    "a%41": "aA",
    "it's": "it's",
    "two\nlines": "two\nlines",
    "ü": "ü",
}
TEXTS = [*FOLDERS.values(), "", "A", "b", "'", "x\nexplainer = '\ny"]
COMPARED = ["=", "<>", "<", ">=", "LIKE", "NOT LIKE", "IS DISTINCT FROM", "SIMILAR TO"]
texts = st.sampled_from(TEXTS).map(literal)
columns = st.sampled_from([*PARTITIONS, "key"])
atoms = st.one_of(
    st.builds("{} {} {}".format, columns, st.sampled_from(COMPARED), texts | columns),
    st.builds("{} LIKE {} || '%'".format, columns, texts),
    st.builds("{} LIKE '%' || {}".format, columns, texts),
    st.builds("{} IN ({}, {})".format, columns, texts, texts),
    st.builds("{} NOT IN ({}, NULL)".format, columns, texts),
    st.builds("{} COLLATE NOCASE = {}".format, columns, texts),
    st.builds("{} BETWEEN {} AND {}".format, columns, texts, texts),
    st.builds("({} = {}) IS NULL".format, columns, texts),
    st.builds("{} IS NOT NULL".format, columns),
    st.builds("list_contains([{}, {}], {})".format, texts, texts, columns),
    st.builds("CASE WHEN {} = {} THEN label = 1 ELSE true END".format, columns, texts),
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
        st.builds("(NOT {})".format, inner),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with connection._database(tmp_path_factory.mktemp("empty"), "1GB") as db:
        needed.show_all_tables(db)
        yield db


@pytest.fixture(scope="module")
def some() -> Iterator[duckdb.DuckDBPyConnection]:
    """A row for each combination of names."""
    with duckdb.connect() as db:
        for column in PARTITIONS:
            db.execute(
                f"CREATE TABLE {column}s AS SELECT unnest(?) AS {column}", [[*FOLDERS.values()]]
            )
        db.execute(
            "CREATE TABLE rows AS FROM datasets, backbones, explainers, "
            "(SELECT unnest(['a', 'k']) AS key), (SELECT unnest([0, 1]) AS label)"
        )
        yield db


@settings(max_examples=100, deadline=None)
@given(conditions)
def test_no_folder_is_left_out_whose_rows_meet_the_condition(
    empty: duckdb.DuckDBPyConnection, some: duckdb.DuckDBPyConnection, condition: str
) -> None:
    rows = some.sql(f"SELECT DISTINCT dataset, backbone, explainer FROM rows WHERE {condition}")
    found = needed.needed(empty, f"FROM maps WHERE {condition}")
    folder_of = {value: folder for folder, value in FOLDERS.items()}
    for row in rows.fetchall():
        parts = [f"{c}={folder_of[v]}" for c, v in zip(PARTITIONS, row, strict=True)]
        paths = ["/".join(parts[:depth]) for depth in (1, 2, 3)]
        assert needed.meeting(empty, found["files_maps"], paths) == paths
