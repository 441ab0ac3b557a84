"""Connections to the lake: DuckDB with views of its files, which queries can only read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Timer
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from ttame_core.errors import UserError
from ttame_core.lake.families import TYPES
from ttame_core.lake.query.boards import recorded_boards
from ttame_core.lake.query.metric_values import add_metrics
from ttame_core.lake.query.needed import ALL, everything, meeting, needed, show_all_tables
from ttame_core.lake.query.read_only import ReadOnly, Worth
from ttame_core.lake.query.variables import literal
from ttame_core.lake.query.views import PARTITIONS, kinds, read_files, script, views
from ttame_core.lake.schemas import LEADERBOARD
from ttame_core.lake.selection import Selection
from ttame_core.lake.store import Lake, maps_file, scores_file
from ttame_core.stopping import asked
from ttame_core.storage import is_full, temporary_folder

TRIES = 3  # of a query whose files are replaced while it reads them
READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
MEMORY = "190MB"
MORE = ("256MB", "512MB", "1GB", "80%")  # tried in turn where a query cannot run in MEMORY
Result = TypeVar("Result")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Limits:
    """The limits of a query that a user asks.

    Attributes:
        memory: most memory, as DuckDB writes sizes, such as `2GB`; five times as much may spill to
            the disk.
        rows: largest number of rows in the answer.
        seconds: longest time until the answer is there, in seconds.
    """

    memory: str = "2GB"
    rows: int = 1_000_000
    seconds: float = 600


@contextmanager
def connect(
    lake: Lake,
    confined: Limits | None = None,
    selection: Selection | None = None,
    question: str | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB connection with the lake's views and macros.

    A view of files that are not there yet is empty.

    Args:
        lake: the workspace.
        confined: limits of a query of a user, which can write nothing, and read nothing but the
            lake. The queries of an audit are not confined; they take at most MEMORY and spill to
            disk, and `answer` gives more to those that need it.
        selection: the maps and scores to look at; None for all.
        question: the only query of a confined connection, so that only the files that it needs are
            listed; None for all files.

    Yields:
        The connection.

    Raises:
        UserError: a file is damaged.
        StoreAway: an object store does not answer.
    """
    read_only = ReadOnly(lake)
    through = confined or not lake.local
    memory = confined.memory if confined else MEMORY
    with temporary_folder() as spill:
        try:
            tables = everything()
            if confined and question:
                with _database(spill, memory) as db:
                    db.register_filesystem(read_only)
                    show_all_tables(db)
                    _confine(db)
                    with _within(confined, db):
                        tables = needed(db, question)
            with _database(spill, memory) as db:
                if through:
                    db.register_filesystem(read_only)
                root = "lake://" if through else f"{_literally(lake.root)}/"
                db.begin()  # each statement would be written to the disk alone
                _fill(db, lake, read_only, root, selection, tables)
                db.commit()
                if confined:
                    _confine(db)
                yield db
        except (duckdb.Error, RuntimeError) as error:
            if stopped := asked():  # a query that a signal interrupts makes an error of its own
                raise stopped from error
            if not isinstance(error, duckdb.Error) or is_full(error):
                raise
            if read_only.failed:  # DuckDB's error has only the text of the store's
                raise read_only.failed from error
            damaged = isinstance(error, duckdb.IOException | duckdb.InvalidInputException)
            if confined or not damaged:  # a user's query can itself be the reason
                raise
            raise UserError(
                f"a file of the workspace {lake} cannot be read ({error}): delete it and run "
                "`ttame audit` again"
            ) from error


def _database(folder: Path, memory: str) -> duckdb.DuckDBPyConnection:
    """Open a database with all views, which are still empty, and all macros.

    Args:
        folder: a folder for the database and for what does not fit into memory.
        memory: most memory, as DuckDB writes sizes.
    """
    path = folder / "views.duckdb"
    path.write_bytes(views().database)
    db = duckdb.connect(path)
    db.execute("SET enable_progress_bar = false")  # it is printed among the answers
    db.execute(f"SET temp_directory = {literal(str(folder))}")
    db.execute(f"SET memory_limit = {literal(memory)}")
    return db


def _fill(
    db: duckdb.DuckDBPyConnection,
    lake: Lake,
    read_only: ReadOnly,
    root: str,
    selection: Selection | None,
    tables: Mapping[str, str],
) -> None:
    """Let the views see the lake's files and the leaderboards that are still valid.

    Args:
        db: a connection whose tables are empty.
        lake: the workspace.
        read_only: the files of the workspace.
        root: the beginning of paths for DuckDB.
        selection: the maps and scores to look at; None for all.
        tables: the tables to fill, each with a condition for its folders (`needed`).
    """
    worth = {table: partial(meeting, db, condition) for table, condition in tables.items()}
    if among := worth.get("recorded_boards"):
        for board in recorded_boards(lake, read_only, selection, among).values():
            db.register("board", board.cast(LEADERBOARD))
            db.execute("INSERT INTO recorded_boards FROM board")
    db.execute(
        "SET VARIABLE recorded_boards = (SELECT list(DISTINCT dataset) FROM recorded_boards)"
    )
    if among := worth.get("partitions"):
        for names in _partitions(read_only, among):
            db.execute("INSERT INTO partitions VALUES (?, ?, ?)", names)
    for name, (pattern, _, partitions) in kinds().items():
        if (among := worth.get(f"files_{name}")) is None:
            continue
        condition = "true"
        if selection and pattern.startswith(("maps/", "scores/")):
            if name != "maps" and name not in selection.families:
                continue
            pattern, condition = selection.files(pattern), _condition(selection)
        whole = tables[f"files_{name}"] == ALL
        places = [pattern] if whole else _below(read_only, pattern, among)
        places = [place for place in places if read_only.holds(place)]
        if places:
            if selection and not name.startswith("audit"):
                paths = read_only.glob(pattern)  # records have hashes of their own
                chosen = pattern.startswith(("maps/", "scores/", "explainers/"))
                lake.check(p for p in paths if not chosen or selection.includes(p))
            read_files(db, name, [f"{root}{place}" for place in places], partitions, condition)


def _below(read_only: ReadOnly, pattern: str, worth: Worth) -> list[str]:
    """Return patterns for the files of a pattern in folders worth listing, in the files' order."""
    folder, _, name = pattern.rpartition("/")
    folders = read_only.folders(folder, worth)
    read_only.list_all(folders)
    return [f"{_literally(folder)}{name}" for folder in sorted(f"{path}/" for path in folders)]


def _partitions(read_only: ReadOnly, worth: Worth) -> list[tuple[str, ...]]:
    """Return data set, backbone and explainer of maps and scores, from folders worth listing."""
    folders = {
        tuple(part.partition("=")[2] for part in path.split("/")[-len(PARTITIONS) :])
        for file in (maps_file("*", "*", "*", ""), scores_file("*", "*", "*", "*", ""))
        for path in read_only.folders(file.rpartition("/")[0], worth)
    }
    return sorted(folders)


def _condition(selection: Selection) -> str:
    """Return an SQL condition for the data set, backbones and explainers of a selection."""

    def among(column: str, names: Iterable[str]) -> str:
        listed = ", ".join(map(literal, sorted(names)))
        return f"{column} IN ({listed})"

    whose = [selection.dataset], selection.backbones, selection.explainers
    return " AND ".join(map(among, PARTITIONS, whose))


def table_of(db: duckdb.DuckDBPyConnection, rows: Rows, schema: pa.Schema) -> pa.Table:
    """Make a table of rows; PyArrow's own way imports pandas, which takes half a second.

    Args:
        db: any connection.
        rows: rows, each with all columns.
        schema: names and types of the columns; the types are among those of families (TYPES).
    """
    types = {arrow: sql for sql, arrow in TYPES.items()}
    columns = ", ".join(f'unnest(?::{types[f.type]}[]) AS "{f.name}"' for f in schema)
    lists = [[row[name] for row in rows] for name in schema.names]
    return db.sql(f"SELECT {columns}", params=lists).to_arrow_table()


def values_of(scores: Mapping[str, pa.Table]) -> list[tuple[str, str, float]]:
    """Compute the metrics of scores that are in memory, as `metric_values` does those of a lake.

    Args:
        scores: the rows of one explainer, a table for each family, with the family's schema.

    Returns:
        The key of an image, the name of a metric, and its value.
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
    db.execute("SET python_enable_replacements = false")  # hides Python's variables
    db.execute("SET lock_configuration = true")
    db.execute("BEGIN TRANSACTION READ ONLY")


def _literally(path: str) -> str:
    """Escape a path's characters that have a meaning in patterns."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def in_enough_memory(db: duckdb.DuckDBPyConnection, ask: Callable[[], Result]) -> Result:
    """Call a function that queries DuckDB, again with a higher memory limit where memory runs out.

    Args:
        db: the connection, whose limit is raised to one value of MORE after another.
        ask: the function.
    """
    for more in MORE:
        try:
            return ask()
        except duckdb.OutOfMemoryException:
            db.execute(f"SET memory_limit = '{more}'")
    return ask()


def answer(db: duckdb.DuckDBPyConnection, sql: str, params: Sequence[Any] = ()) -> pa.Table:
    """Run a query `in_enough_memory`, and set the limit back to MEMORY.

    Args:
        db: the connection.
        sql: the query.
        params: values of the query's parameters.
    """
    table = in_enough_memory(db, lambda: db.sql(sql, params=list(params)).to_arrow_table())
    with suppress(duckdb.OutOfMemoryException):  # more than MEMORY may still be in use
        db.execute(f"SET memory_limit = '{MEMORY}'")
    return table


def computed_leaderboard(lake: Lake, dataset: str, selection: Selection) -> pa.Table:
    """Return the leaderboard of a lake, computed from its scores.

    Unlike `leaderboard`, it takes nothing from records, not even from those that are still valid.

    Args:
        lake: the workspace.
        dataset: name of the data set.
        selection: the maps and scores to look at.
    """
    with connect(lake, selection=selection) as db:
        db.execute("DELETE FROM recorded_boards; RESET VARIABLE recorded_boards")
        return read_leaderboard(db, dataset)


def leaderboard(
    lake: Lake, dataset: str | None = None, selection: Selection | None = None
) -> pa.Table:
    """Return the view `leaderboard` of a lake, in a stable order.

    Args:
        lake: the workspace.
        dataset: name of a data set; None for all.
        selection: the maps and scores to look at; None for all.
    """
    with connect(lake, selection=selection) as db:
        return read_leaderboard(db, dataset)


def read_leaderboard(db: duckdb.DuckDBPyConnection, dataset: str | None = None) -> pa.Table:
    """Return the view `leaderboard` of a connection, in a stable order.

    Args:
        db: the connection.
        dataset: name of a data set; None for all.
    """
    return answer(
        db,
        "FROM leaderboard WHERE ? IN (dataset, '') ORDER BY dataset, backbone, explainer, metric",
        [dataset or ""],
    )


def run_query(lake: Lake, sql: str, limits: Limits = Limits()) -> pa.Table:
    """Answer one query of a user, which can write nothing and read nothing outside the workspace.

    Where a file is replaced while it is read, the query is asked again.

    Args:
        lake: the workspace.
        sql: one statement that reads, such as SELECT.
        limits: the most that it may take.

    Raises:
        UserError: the text is not one statement that reads, DuckDB refuses it, or it takes more
            than its limits.
    """
    for left in range(TRIES - 1, -1, -1):
        try:
            return _ask(lake, sql, limits)
        except duckdb.Error as error:
            if not left or not isinstance(error, duckdb.IOException | duckdb.InvalidInputException):
                raise UserError(f"SQL error: {error}") from error
    raise AssertionError


@contextmanager
def _within(limits: Limits, db: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Interrupt a connection's query in this context where it takes longer than it may.

    Raises:
        UserError: it was interrupted.
    """
    late = Event()

    def give_up() -> None:
        late.set()
        db.interrupt()

    timer = Timer(limits.seconds, give_up)
    timer.start()
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        if late.is_set():
            raise UserError(
                f"the query takes more than {limits.seconds:g} s: ask for less, or raise --seconds"
            ) from error
        raise
    finally:
        timer.cancel()


def _ask(lake: Lake, sql: str, limits: Limits) -> pa.Table:
    """Answer a query without another try."""
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1 or statements[0].type not in READING:
        raise UserError(
            "`ttame query` takes one statement that reads: SELECT, FROM, WITH, DESCRIBE, SHOW, "
            "SUMMARIZE or EXPLAIN"
        )
    with connect(lake, confined=limits, question=sql) as db, _within(limits, db):
        table = db.sql(sql).limit(limits.rows + 1).to_arrow_table()
    if table.num_rows > limits.rows:
        raise UserError(
            f"the answer has more than {limits.rows} rows: ask for fewer (LIMIT, GROUP BY), or "
            "raise --rows"
        )
    return table
