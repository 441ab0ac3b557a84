"""SQL over the lake: DuckDB views of its files, read-only."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ttame_core.errors import UserError, nearest, writing
from ttame_core.lake import families as scores
from ttame_core.lake.query.boards import kept_boards
from ttame_core.lake.query.directions import add_directions
from ttame_core.lake.query.metric_values import add_metrics
from ttame_core.lake.query.read_only import ReadOnly
from ttame_core.lake.schemas import (
    ANNOTATIONS,
    ANY_HISTORY,
    AUDIT_CHANGES,
    AUDIT_THUMBNAILS,
    AUDIT_VALUES,
    EXPLAINERS,
    INDEX,
    LEADERBOARD,
    REJECTED,
    SHARDS,
    SWEEPS,
    maps_schema,
)
from ttame_core.lake.selection import Meant
from ttame_core.lake.store import Lake

PARTITIONS = ("dataset", "backbone", "explainer")
EITHER = pa.unify_schemas([maps_schema(1, 1), maps_schema(1, 1, "uint8")])  # as maps are stored
# Files behind each table: where they lie, what is in them, which partitions their path tells.
# Beside them, a table of each family of scores.
FILES: dict[str, tuple[str, pa.Schema, tuple[str, ...]]] = {
    "samples": ("datasets/*/index.parquet", INDEX, ()),
    "boxes": ("datasets/*/annotations.parquet", ANNOTATIONS, ()),
    "rejected": ("datasets/*/rejected.parquet", REJECTED, ()),
    "shards": ("datasets/*/shards.parquet", SHARDS, ()),
    "maps": ("maps/*/*/*/*.parquet", EITHER, PARTITIONS),
    "explainers": ("explainers/*/*/*/*.parquet", EXPLAINERS, PARTITIONS),
    "heads": ("heads/*/*/*/history.parquet", ANY_HISTORY, PARTITIONS),
    "sweeps": ("sweeps/*/*/*/*.parquet", SWEEPS, PARTITIONS),
    "audits": ("audits/*/*/leaderboard.parquet", LEADERBOARD, ()),
    "audit_values": ("audits/*/*/values.parquet", AUDIT_VALUES, ()),
    "audit_thumbnails": ("audits/*/*/thumbnails.parquet", AUDIT_THUMBNAILS, ()),
    "audit_changes": ("audits/*/*/changes.parquet", AUDIT_CHANGES, ()),
}
ANSWERS = ("leaderboard", "ranks", "disagreement", "object_sizes", "map_changes")  # scripts
READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
FORMATS = ("table", "markdown", "csv", "json", "parquet")
MEMORY = "190MB"
MORE = ("256MB", "512MB", "1GB", "80%")  # for what cannot be worked out within it
WIDEST_LIST = 6  # elements of a list that a table shows
Result = TypeVar("Result")


@contextmanager
def connect(
    lake: Lake, confined: bool = False, meant: Meant | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with the lake's views and macros; what is not there yet is empty.

    meant: the maps and scores to look at; default: all.
    confined: nothing is written, and nothing read but the lake, whatever is asked. Else it is what
    an audit asks: that takes MEMORY, however much there is, and the rest spills to disk (`answer`
    takes more for what cannot). Raises UserError for a file that turns out to be damaged, and
    StoreAway where an object store does not answer.
    """
    reading = ReadOnly(lake)
    through = confined or not lake.local
    with TemporaryDirectory() as spill, _database(Path(spill)) as db:
        try:
            db.execute(f"SET temp_directory = '{_quoted(spill)}'")
            if not confined:
                db.execute(f"SET memory_limit = '{MEMORY}'")
            if through:
                db.register_filesystem(reading)
            root = "lake://" if through else f"{_literally(lake.root)}/"
            _fill(db, lake, reading, root, meant)
            if confined:
                _confine(db)
            yield db
        except duckdb.Error as error:
            if reading.failed:  # DuckDB tells it as text
                raise reading.failed from error
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
    path.write_bytes(_views(repr(scores.added())))
    return duckdb.connect(path)


@lru_cache(maxsize=1)
def _views(added: str) -> bytes:
    """The file of that database. Made once: DuckDB looks through all that a new view is of.

    added: the families of other packages, which it follows from.
    """
    _refuse_taken()
    families = scores.schemas()
    with TemporaryDirectory() as folder:
        path = Path(folder, "views.duckdb")
        with duckdb.connect(path) as db:
            for name, (_, schema, partitions) in _kinds().items():
                db.register("empty", _readable(schema).empty_table())
                extra = "".join(f", '' AS {column}" for column in ("filename", *partitions))
                db.execute(f"CREATE TABLE files_{name} AS SELECT *{extra} FROM empty")
            db.execute("CREATE TABLE files_metadata (file_name VARCHAR, key BLOB, value BLOB)")
            columns = ", ".join(f"{column} VARCHAR" for column in PARTITIONS)
            db.execute(f"CREATE TABLE partitions ({columns})")
            for script in (_sql("macros"), _sql("views"), *map(_scores_view, families)):
                db.execute(script)
            add_metrics(db)
            add_directions(db)
            db.register("boards", LEADERBOARD.empty_table())
            db.execute("CREATE TABLE kept AS FROM boards")
            for script in ANSWERS:
                db.execute(_sql(script))
        return path.read_bytes()


def _fill(
    db: duckdb.DuckDBPyConnection, lake: Lake, reading: ReadOnly, root: str, meant: Meant | None
) -> None:
    """The lake's files, and the leaderboards that still hold, in the stead of none."""
    db.execute("SET enable_progress_bar = false")  # it is written to where answers go
    for board in kept_boards(lake, reading, meant).values():
        db.register("board", board.cast(LEADERBOARD))
        db.execute("INSERT INTO kept FROM board")
    db.execute("SET VARIABLE kept = (SELECT list(DISTINCT dataset) FROM kept)")
    db.register("explained", _partitions(reading))
    db.execute("INSERT INTO partitions FROM explained")
    for name, (pattern, _, partitions) in _kinds().items():
        condition = "true"
        if meant and pattern.startswith(("maps/", "scores/")):
            if name != "maps" and name not in meant.families:
                continue
            pattern, condition = meant.files(pattern), _condition(meant)
        if reading.holds(pattern):
            _add_files(db, name, _quoted(f"{root}{pattern}"), partitions, condition)


def _partitions(reading: ReadOnly) -> pa.Table:
    """Return data set, backbone and explainer of all maps and scores, by their folders alone."""
    folders = {
        tuple(part.partition("=")[2] for part in path.split("/")[-len(PARTITIONS) :])
        for pattern in ("maps/*/*/*", "scores/*/*/*/*")
        for path in reading.glob(pattern)
    }
    rows = [dict(zip(PARTITIONS, names, strict=True)) for names in sorted(folders)]
    return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in PARTITIONS]))


def _condition(meant: Meant) -> str:
    """SQL that is true of a split's rows that are meant."""

    def among(column: str, names: Iterable[str]) -> str:
        listed = ", ".join(f"'{_quoted(name)}'" for name in sorted(names))
        return f"{column} IN ({listed})"

    whose = [meant.dataset], meant.backbones, meant.explainers
    return " AND ".join(map(among, PARTITIONS, whose))


def _kinds() -> dict[str, tuple[str, pa.Schema, tuple[str, ...]]]:
    """FILES and those of every family of scores."""
    return FILES | {
        family: (f"scores/metric={family}/*/*/*/*.parquet", schema, ("metric", *PARTITIONS))
        for family, schema in scores.schemas().items()
    }


def _add_files(
    db: duckdb.DuckDBPyConnection,
    name: str,
    place: str,
    partitions: Sequence[str],
    condition: str,
) -> None:
    """The files of a kind, in the stead of none. condition: SQL that tells which by their path."""
    told = ("filename", *partitions)  # by a file's path
    own = [row for row in db.sql(f"DESCRIBE files_{name}").fetchall() if row[0] not in told]
    # The columns are known: not every file is opened to learn them.
    columns = ", ".join(
        f"'{column}': {{name: '{column}', type: '{type}', default_value: NULL}}"
        for column, type, *_ in own
    )
    db.execute(f"DROP TABLE files_{name}")
    db.execute(
        f"CREATE VIEW files_{name} AS FROM read_parquet('{place}', filename = true, "
        f"schema = MAP {{{columns}}}, hive_partitioning = {bool(partitions)}, "
        f"hive_types_autocast = false) WHERE {condition}"
    )
    if name == "maps":
        db.execute("DROP TABLE files_metadata")
        db.execute(f"CREATE VIEW files_metadata AS FROM parquet_kv_metadata('{place}')")


def _refuse_taken() -> None:
    """Raise UserError where another package's family has the name of a view of ttame."""
    for family in scores.added():
        made = "\n".join(map(_sql, ("views", "directions", *ANSWERS)))
        if family in FILES or re.search(rf"^CREATE (VIEW|TABLE) {family}\b", made, re.I | re.M):
            raise UserError(
                f"{scores.origin_of(family)} has the name of a view of ttame: rename the family"
            )


def values_of(found: Mapping[str, pa.Table]) -> list[tuple[str, str, float]]:
    """Key, metric and value of scores that are in memory: as `metric_values` has those of a lake.

    found: a table of each family, of one explainer, as its schema says.
    """
    with duckdb.connect() as db:
        db.execute(_sql("macros"))
        for family, rows in found.items():
            db.register(f"rows_{family}", rows)
            whose = "'' AS dataset, '' AS backbone, '' AS explainer"
            db.execute(f"CREATE VIEW {family} AS SELECT {whose}, * FROM rows_{family}")
        add_metrics(db, found)
        return db.sql("SELECT key, metric, value FROM metric_values").fetchall()


def _confine(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("SET allowed_directories = ['lake://']")
    db.execute("SET enable_external_access = false")
    db.execute("SET python_enable_replacements = false")  # no variables of ours
    db.execute("SET lock_configuration = true")
    db.execute("BEGIN TRANSACTION READ ONLY")


def _sql(script: str) -> str:
    return resources.files("ttame_core.lake.query").joinpath(f"sql/{script}.sql").read_text()


def _scores_view(family: str) -> str:
    return (
        f"CREATE VIEW {family} AS SELECT dataset, backbone, explainer, "
        f"* EXCLUDE (dataset, backbone, explainer, filename, metric) FROM files_{family}"
    )


def _quoted(path: str) -> str:
    return path.replace("'", "''")


def _literally(path: str) -> str:
    """A path in which no character is a pattern's."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _readable(schema: pa.Schema) -> pa.Schema:
    """As DuckDB reads these columns back: it has no half floats and no lists of fixed size."""

    def column(field: pa.Field) -> pa.Field:
        if pa.types.is_fixed_size_list(field.type):
            return field.with_type(pa.list_(pa.float32()))
        return field

    return pa.schema([column(field) for field in schema])


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


def leaderboard(lake: Lake, dataset: str | None = None, meant: Meant | None = None) -> pa.Table:
    """The view `leaderboard`, of one data set or of all, in a stable order.

    meant: of these maps and scores alone.
    """
    with connect(lake, meant=meant) as db:
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


def write_result(result: pa.Table, format: str = "table", output: str | None = None) -> None:
    """Write a query's answer in one of FORMATS, to a file or to the terminal."""
    if format not in FORMATS:
        allowed = ", ".join(FORMATS)
        raise UserError(f"unknown format {format}; allowed: {allowed}." + nearest(format, FORMATS))
    if format == "parquet":
        if output is None:
            raise UserError("parquet is not for the terminal: name a file with --output")
        with writing(output):
            pq.write_table(result, output)
        return
    text = {"table": _table, "markdown": _markdown, "csv": _csv, "json": _json}[format](
        result, output
    )
    if output is None:
        sys.stdout.write(text)
    else:
        with writing(output):
            Path(output).write_text(text, encoding="utf-8")


def _table(result: pa.Table, output: str | None) -> str:
    table = Table(box=box.SIMPLE_HEAD)
    for field in result.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(Text(field.name), justify="right" if number else "left")
    for row in result.to_pylist():
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    width = None if output is None and sys.stdout.isatty() else 200
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(table)
    return console.file.getvalue()


def _markdown(result: pa.Table, output: str | None) -> str:
    rows = [result.column_names, ["---"] * len(result.column_names)]
    rows += [[_cell(value) for value in row.values()] for row in result.to_pylist()]
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "".join(f"| {line} |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        shown = ", ".join(_cell(v) for v in value[:WIDEST_LIST])
        return f"[{shown}{', …' if len(value) > WIDEST_LIST else ''}]"
    return str(value)


def _csv(result: pa.Table, output: str | None) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(result.column_names)
    writer.writerows(row.values() for row in result.to_pylist())
    return stream.getvalue()


def _json(result: pa.Table, output: str | None) -> str:
    return json.dumps(result.to_pylist(), indent=1, default=str, ensure_ascii=False) + "\n"
