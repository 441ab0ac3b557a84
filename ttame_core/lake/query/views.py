"""The views of a lake over no files yet, made once in a database that every connection copies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import duckdb
import pyarrow as pa

from ttame_core.errors import UserError
from ttame_core.lake import families
from ttame_core.lake.query.directions import add_directions
from ttame_core.lake.query.metric_values import add_metrics
from ttame_core.lake.query.variables import literal
from ttame_core.lake.schemas import (
    ANNOTATIONS,
    ANY_HISTORY,
    AUDIT_CHANGES,
    AUDIT_THUMBNAILS,
    AUDIT_VALUES,
    CLASSES,
    EXPLAINERS,
    INDEX,
    LEADERBOARD,
    PASTED,
    REJECTED,
    SHARDS,
    SWEEPS,
    maps_schema,
)
from ttame_core.lake.store import (
    classes_file,
    explainer_file,
    head_folder,
    maps_file,
    pasted_file,
    scores_file,
    trial_file,
)
from ttame_core.storage import temporary_folder

PARTITIONS = ("dataset", "backbone", "explainer")
EITHER = pa.unify_schemas([maps_schema(1, 1), maps_schema(1, 1, "uint8")])  # float16 and uint8
# The files behind each table: the pattern of their paths, their schema, and the partitions in their
# paths. Each family of scores has a table as well.
FILES: dict[str, tuple[str, pa.Schema, tuple[str, ...]]] = {
    "samples": ("datasets/*/index.parquet", INDEX, ()),
    "boxes": ("datasets/*/annotations.parquet", ANNOTATIONS, ()),
    "rejected": ("datasets/*/rejected.parquet", REJECTED, ()),
    "shards": ("datasets/*/shards.parquet", SHARDS, ()),
    "maps": (maps_file("*", "*", "*", "*"), EITHER, PARTITIONS),
    "explainers": (explainer_file("*", "*", "*"), EXPLAINERS, PARTITIONS),
    "classes": (classes_file("*", "*"), CLASSES, ("dataset", "backbone")),
    "pasted": (pasted_file("*", "*"), PASTED, ("dataset", "backbone")),
    "heads": (f"{head_folder('*', '*', '*')}/history.parquet", ANY_HISTORY, PARTITIONS),
    "sweeps": (trial_file("*", "*", "*", None), SWEEPS, PARTITIONS),
    "audits": ("audits/*/*/leaderboard.parquet", LEADERBOARD, ()),
    "audit_values": ("audits/*/*/values.parquet", AUDIT_VALUES, ()),
    "audit_thumbnails": ("audits/*/*/thumbnails.parquet", AUDIT_THUMBNAILS, ()),
    "audit_changes": ("audits/*/*/changes.parquet", AUDIT_CHANGES, ()),
}
ANSWERS = (
    "leaderboard",
    "ranks",
    "disagreement",
    "trust",
    "object_sizes",
    "map_changes",
)  # SQL files
# The view of a kind's files. All columns are given, so that DuckDB opens no file to learn them.
READ_FILES = """
CREATE VIEW files_{name} AS FROM read_parquet(
    {places}, filename = true, schema = MAP {{{columns}}}, hive_partitioning = {partitioned},
    hive_types_autocast = false
) WHERE {condition}"""
# A query for the definitions of all views, tables and macros.
DEFINITIONS = """
SELECT sql FROM duckdb_views() WHERE NOT internal AND NOT temporary
UNION ALL SELECT sql FROM duckdb_tables()
UNION ALL SELECT function_name || parameters::VARCHAR || macro_definition
FROM duckdb_functions() WHERE NOT internal AND macro_definition IS NOT NULL
ORDER BY ALL"""


@dataclass(frozen=True)
class Views:
    """All views and macros.

    Attributes:
        database: content of a DuckDB file that has them.
        columns: of each kind of files, by its name, SQL of the schema with which they are read.
        definitions: SQL of their definitions, on which all answers depend.
    """

    database: bytes
    columns: Mapping[str, str]
    definitions: tuple[str, ...]


@cache
def views() -> Views:
    """Return the views and macros with which queries read the lake, all families' scores included.

    They are made once for each process, because DuckDB takes long to check their definitions.

    Raises:
        UserError: a family of another package cannot be used.
    """
    _refuse_taken()
    with temporary_folder() as folder:
        path = folder / "views.duckdb"
        columns = {}
        with duckdb.connect(path) as db:
            db.begin()  # each statement would be written to the disk alone
            for name, (_, schema, partitions) in kinds().items():
                db.register("empty", _empty(_readable(schema)))
                columns[name] = _columns(db)
                extra = "".join(f", '' AS {column}" for column in ("filename", *sorted(partitions)))
                db.execute(f"CREATE TABLE files_{name} AS SELECT *{extra} FROM empty")
            db.execute("CREATE TABLE files_metadata (file_name VARCHAR, key BLOB, value BLOB)")
            names = ", ".join(f"{column} VARCHAR" for column in PARTITIONS)
            db.execute(f"CREATE TABLE partitions ({names})")
            for sql in (script("macros"), script("views"), *map(_scores_view, families.schemas())):
                db.execute(sql)
            add_metrics(db)
            add_directions(db)
            db.register("boards", _empty(LEADERBOARD))
            db.execute("CREATE TABLE recorded_boards AS FROM boards")
            for name in ANSWERS:
                db.execute(script(name))
            definitions = tuple(sql for (sql,) in db.sql(DEFINITIONS).fetchall())
            db.commit()
        return Views(path.read_bytes(), columns, (READ_FILES, *definitions))


def kinds() -> dict[str, tuple[str, pa.Schema, tuple[str, ...]]]:
    """Return the kinds of files that views read: those in FILES, and every family's scores.

    Returns:
        For each kind, by name: the pattern of its files' paths, the schema of their rows, and the
        columns whose values stand in the paths.
    """
    return FILES | {
        family: (scores_file(family, "*", "*", "*", "*"), schema, ("metric", *PARTITIONS))
        for family, schema in families.schemas().items()
    }


def read_files(
    db: duckdb.DuckDBPyConnection,
    name: str,
    places: Sequence[str],
    partitions: Sequence[str],
    condition: str,
) -> None:
    """Let the views see the files of a kind: replace its empty table by a view of the files.

    Args:
        db: connection with the views.
        name: name of the kind, a key of `kinds`.
        places: patterns of paths, each of which is that of some file.
        partitions: columns whose values are in the paths.
        condition: SQL condition that chooses rows.
    """
    db.execute(f"DROP TABLE files_{name}")
    db.execute(
        READ_FILES.format(
            name=name,
            places=literal(places),
            columns=views().columns[name],
            partitioned=bool(partitions),
            condition=condition,
        )
    )
    if name == "maps":
        db.execute("DROP TABLE files_metadata")
        db.execute(f"CREATE VIEW files_metadata AS FROM parquet_kv_metadata({literal(places)})")


def script(name: str) -> str:
    """Return the text of the SQL file with this name."""
    return resources.files("ttame_core.lake.query").joinpath(f"sql/{name}.sql").read_text("utf-8")


def _refuse_taken() -> None:
    """Raise UserError where another package's family has the name of a view of ttame."""
    made = "\n".join(map(script, ("views", "directions", *ANSWERS)))
    for family in families.registry().added:
        if family in FILES or re.search(rf"^CREATE (VIEW|TABLE) {family}\b", made, re.I | re.M):
            raise UserError(
                f"{families.origin_of(family)} has the name of a view of ttame: rename the family"
            )


def _scores_view(family: str) -> str:
    return (
        f"CREATE VIEW {family} AS SELECT dataset, backbone, explainer, "
        f"* EXCLUDE (dataset, backbone, explainer, filename, metric) FROM files_{family}"
    )


def _empty(schema: pa.Schema) -> pa.Table:
    """Return a table without rows; `empty_table` would import pandas, which takes half a second."""
    return pa.Table.from_batches([], schema)


def _columns(db: duckdb.DuckDBPyConnection) -> str:
    """Return SQL of the schema of the table `empty`, as `read_parquet` takes one."""
    return ", ".join(
        f"'{column}': {{name: '{column}', type: '{type}', default_value: NULL}}"
        for column, type, *_ in db.sql("DESCRIBE empty").fetchall()
    )


def _readable(schema: pa.Schema) -> pa.Schema:
    """Return the schema that DuckDB reads: it knows no half floats and no lists of fixed size."""

    def column(field: pa.Field) -> pa.Field:
        if pa.types.is_fixed_size_list(field.type):
            return field.with_type(pa.list_(pa.float32()))
        return field

    return pa.schema([column(field) for field in schema])
