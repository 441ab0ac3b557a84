"""SQL over the lake: DuckDB views of its files, read-only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from ttame_core.errors import UserError
from ttame_core.lake.query.boards import recorded_boards
from ttame_core.lake.query.metric_values import add_metrics
from ttame_core.lake.query.read_only import ReadOnly
from ttame_core.lake.query.views import PARTITIONS, kinds, read_files, script, views
from ttame_core.lake.schemas import LEADERBOARD
from ttame_core.lake.selection import Selection
from ttame_core.lake.store import Lake

READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
MEMORY = "190MB"
MORE = ("256MB", "512MB", "1GB", "80%")  # for what cannot be worked out within it
Result = TypeVar("Result")


@contextmanager
def connect(
    lake: Lake, confined: bool = False, selection: Selection | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with the lake's views and macros; what is not there yet is empty.

    selection: the maps and scores to look at; default: all.
    confined: nothing is written, and nothing read but the lake, whatever is asked. Else it is what
    an audit asks: that takes MEMORY, however much there is, and the rest spills to disk (`answer`
    takes more for what cannot). Raises UserError for a file that turns out to be damaged, and
    StoreAway where an object store does not answer.
    """
    read_only = ReadOnly(lake)
    through = confined or not lake.local
    with TemporaryDirectory() as spill, _database(Path(spill)) as db:
        try:
            db.execute(f"SET temp_directory = '{_quoted(spill)}'")
            if not confined:
                db.execute(f"SET memory_limit = '{MEMORY}'")
            if through:
                db.register_filesystem(read_only)
            root = "lake://" if through else f"{_literally(lake.root)}/"
            _fill(db, lake, read_only, root, selection)
            if confined:
                _confine(db)
            yield db
        except duckdb.Error as error:
            if read_only.failed:  # DuckDB tells it as text
                raise read_only.failed from error
            damaged = isinstance(error, duckdb.IOException | duckdb.InvalidInputException)
            if confined or not damaged:  # what a user asks may be wrong as well
                raise
            raise UserError(
                f"a file of the workspace {lake} cannot be read ({error}): delete it and run "
                "`ttame audit` again"
            ) from error


def _database(folder: Path) -> duckdb.DuckDBPyConnection:
    """A database in that folder with all views and macros, over no files yet."""
    path = folder / "views.duckdb"
    path.write_bytes(views().database)
    return duckdb.connect(path)


def _fill(
    db: duckdb.DuckDBPyConnection,
    lake: Lake,
    read_only: ReadOnly,
    root: str,
    selection: Selection | None,
) -> None:
    """The lake's files, and the leaderboards that still hold, in the stead of none."""
    db.execute("SET enable_progress_bar = false")  # it is written to where answers go
    for board in recorded_boards(lake, read_only, selection).values():
        db.register("board", board.cast(LEADERBOARD))
        db.execute("INSERT INTO recorded_boards FROM board")
    db.execute(
        "SET VARIABLE recorded_boards = (SELECT list(DISTINCT dataset) FROM recorded_boards)"
    )
    db.register("explained", _partitions(read_only))
    db.execute("INSERT INTO partitions FROM explained")
    for name, (pattern, _, partitions) in kinds().items():
        condition = "true"
        if selection and pattern.startswith(("maps/", "scores/")):
            if name != "maps" and name not in selection.families:
                continue
            pattern, condition = selection.files(pattern), _condition(selection)
        if read_only.holds(pattern):
            read_files(db, name, _quoted(f"{root}{pattern}"), partitions, condition)


def _partitions(read_only: ReadOnly) -> pa.Table:
    """Return data set, backbone and explainer of all maps and scores, by their folders alone."""
    folders = {
        tuple(part.partition("=")[2] for part in path.split("/")[-len(PARTITIONS) :])
        for pattern in ("maps/*/*/*", "scores/*/*/*/*")
        for path in read_only.glob(pattern)
    }
    rows = [dict(zip(PARTITIONS, names, strict=True)) for names in sorted(folders)]
    return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in PARTITIONS]))


def _condition(selection: Selection) -> str:
    """SQL that is true of a split's rows that are selected."""

    def among(column: str, names: Iterable[str]) -> str:
        listed = ", ".join(f"'{_quoted(name)}'" for name in sorted(names))
        return f"{column} IN ({listed})"

    whose = [selection.dataset], selection.backbones, selection.explainers
    return " AND ".join(map(among, PARTITIONS, whose))


def values_of(scores: Mapping[str, pa.Table]) -> list[tuple[str, str, float]]:
    """Key, metric and value of scores that are in memory: as `metric_values` has those of a lake.

    scores: a table of each family, of one explainer, as its schema says.
    """
    with duckdb.connect() as db:
        db.execute(script("macros"))
        for family, rows in scores.items():
            db.register(f"rows_{family}", rows)
            whose = "'' AS dataset, '' AS backbone, '' AS explainer"
            db.execute(f"CREATE VIEW {family} AS SELECT {whose}, * FROM rows_{family}")
        add_metrics(db, scores)
        return db.sql("SELECT key, metric, value FROM metric_values").fetchall()


def _confine(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("SET allowed_directories = ['lake://']")
    db.execute("SET enable_external_access = false")
    db.execute("SET python_enable_replacements = false")  # no variables of ours
    db.execute("SET lock_configuration = true")
    db.execute("BEGIN TRANSACTION READ ONLY")


def _quoted(path: str) -> str:
    return path.replace("'", "''")


def _literally(path: str) -> str:
    """A path in which no character is a pattern's."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def in_enough_memory(db: duckdb.DuckDBPyConnection, ask: Callable[[], Result]) -> Result:
    """What is asked of DuckDB, within its limit or the least of MORE that is enough."""
    for more in MORE:
        try:
            return ask()
        except duckdb.OutOfMemoryException:
            db.execute(f"SET memory_limit = '{more}'")
    return ask()


def answer(db: duckdb.DuckDBPyConnection, sql: str, params: Sequence[Any] = ()) -> pa.Table:
    """What a query gives, `in_enough_memory`; the next one has MEMORY again."""
    table = in_enough_memory(db, lambda: db.sql(sql, params=list(params)).to_arrow_table())
    with suppress(duckdb.OutOfMemoryException):  # where less cannot be had yet
        db.execute(f"SET memory_limit = '{MEMORY}'")
    return table


def leaderboard(
    lake: Lake, dataset: str | None = None, selection: Selection | None = None
) -> pa.Table:
    """The view `leaderboard`, of one data set or of all, in a stable order.

    selection: of these maps and scores alone.
    """
    with connect(lake, selection=selection) as db:
        return read_leaderboard(db, dataset)


def read_leaderboard(db: duckdb.DuckDBPyConnection, dataset: str | None = None) -> pa.Table:
    """Return the view `leaderboard`, of one data set or of all, in a stable order."""
    return answer(
        db,
        "FROM leaderboard WHERE ? IN (dataset, '') ORDER BY dataset, backbone, explainer, metric",
        [dataset or ""],
    )


def run_query(lake: Lake, sql: str) -> pa.Table:
    """The answer to one SELECT over the lake's views.

    Nothing can be written, and nothing outside the workspace can be read. Raises UserError for
    anything but one SELECT-like statement, and with DuckDB's words for SQL errors.
    """
    try:
        with connect(lake, confined=True) as db:
            statements = duckdb.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in READING:
                raise UserError(
                    "`ttame query` takes one statement that reads: SELECT, FROM, WITH, DESCRIBE, "
                    "SHOW, SUMMARIZE or EXPLAIN"
                )
            return db.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        raise UserError(f"SQL error: {error}") from error
