"""The connection of a record, with the audit's scores and the images whose values are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from ttame_core import spec
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect
from ttame_core.lake.query.variables import literal, set_variables
from ttame_core.lake.selection import Selection

RECORDED = 10_000  # images whose single values are recorded, for comparisons with later audits

SPLIT = "FROM samples\nWHERE dataset = getvariable('dataset') AND split = getvariable('split')\n"
FIRST = "ORDER BY md5(key), key LIMIT "  # images with the lowest hashes: the same in every audit


@contextmanager
def connect_audit(lake: Lake, audit: spec.AuditSpec) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection that sees only an audit's maps and scores.

    It has a table `recorded`: the keys of the images whose single values the audit's record keeps.

    Args:
        lake: the workspace.
        audit: the spec; its data set and split become DuckDB's variables `dataset` and `split`.

    Yields:
        The connection, with the memory limit of `connect`.
    """
    with connect(lake, selection=Selection.of(audit)) as db:
        list_recorded(db, audit.dataset.name, audit.maps.split, RECORDED)
        yield db


def list_recorded(db: duckdb.DuckDBPyConnection, dataset: str, split: str, most: int) -> None:
    """Make the table `recorded`: keys of the images of a split whose single values are recorded.

    DuckDB's variable `last` becomes the highest hash of these keys. A condition on that hash lets
    DuckDB skip other rows early, which a join with the table's keys would not.

    Args:
        db: connection with the view `samples`.
        dataset: name of the data set.
        split: name of the split.
        most: number of images, at most; those with the lowest hashes are chosen.
    """
    set_variables(db, {"dataset": dataset, "split": split})
    # Hashes are uniform. Below this cut are about `enough` images, which are sorted quickly.
    enough = 2 * most + 100
    share = f"{enough} * 4294967296 / count(*)"
    cut = f"CASE WHEN count(*) > {enough} THEN printf('%08x', ({share})::BIGINT) ELSE 'g' END"
    db.execute(f"SET VARIABLE cut = (SELECT {cut} {SPLIT})")
    db.execute(
        "CREATE TEMP TABLE recorded AS "
        f"SELECT key {SPLIT}AND md5(key) < getvariable('cut') {FIRST}{most}"
    )
    db.execute("SET VARIABLE last = (SELECT max(md5(key)) FROM recorded)")


@contextmanager
def own_values(db: duckdb.DuckDBPyConnection, lake: Lake, record: str) -> Iterator[None]:
    """Let a connection see, in this context, single values that were written after it was opened.

    They are in the view `own_values`, and in `audit_values` and `audit_thumbnails` beside those of
    earlier records.

    Args:
        db: connection to the lake.
        lake: the workspace.
        record: the record with the values, name/timestamp.
    """
    name, timestamp = record.split("/")
    folder = f"audits/{record}"
    with (
        lake.local_copy(f"{folder}/values.parquet") as values,
        lake.local_copy(f"{folder}/thumbnails.parquet") as thumbnails,
    ):
        for table, path in (("values", values), ("thumbnails", thumbnails)):
            db.execute(f"ALTER VIEW audit_{table} RENAME TO earlier_{table}")
            db.execute(f"CREATE VIEW own_{table} AS FROM read_parquet({literal(path)})")
            db.execute(
                f"CREATE VIEW audit_{table} AS "
                f"FROM earlier_{table} WHERE name || '/' || timestamp <> {literal(record)} "
                f"UNION ALL BY NAME SELECT {literal(name)} AS name, "
                f"{literal(timestamp)} AS timestamp, * FROM own_{table}"
            )
        yield
