"""The files that a question needs, from DuckDB's plan for it over tables that are still empty.

The plan says which tables the question reads, and which conditions the names of their folders must
meet. Folders without rows for the answer are not listed. Where the plan does not tell, all are.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import duckdb

from ttame_core.lake.query.views import PARTITIONS, kinds

ALL = "true"  # the condition that every folder meets
# DuckDB's optimizers that move conditions to the tables. All others are off: some of them see that
# the tables are empty, and leave them out of the plan.
MOVING = (
    "expression_rewriter",
    "filter_pullup",
    "filter_pushdown",
    "cte_filter_pusher",
    "cte_inlining",
    "regex_range",
    "in_clause",
)
# Parts of a plan that read no table, but files that the question names, or what other parts made.
# What reads anything else, such as duckdb_views(), may look at the views.
APART = re.compile(
    r"(DUMMY|COLUMN_DATA|CTE|REC_CTE|DELIM)_SCAN|EMPTY_RESULT|RANGE|GENERATE_SERIES|UNNEST|REPEAT"
    r"|(READ|PARQUET)_\w+|GLOB"
)
# Comparisons of names with texts. While names are unknown (NULL), these are false only where they
# are so whatever the names turn out to be.
PLAIN = re.compile(
    rf"(\b({'|'.join(PARTITIONS)}|AND|OR|NOT|IN|contains|prefix|suffix)\b|'([^']|'')*+'"
    r"|[=<>!(), ])+"
)
# The names in paths are decoded, as DuckDB does where it reads the files.
NAMES = ", ".join(
    rf"nullif(url_decode(regexp_extract(folder, '(^|/){column}=([^/]*)', 2)), '') AS {column}"
    for column in PARTITIONS
)
MEETING = f"""
SELECT folder FROM (SELECT folder, {NAMES} FROM (SELECT unnest(?::VARCHAR[]) AS folder))
WHERE ({{condition}}) IS DISTINCT FROM false"""


def everything() -> dict[str, str]:
    """Return all tables that are filled from files, each with the condition ALL."""
    return dict.fromkeys(("recorded_boards", "partitions", *map("files_{}".format, kinds())), ALL)


def show_all_tables(db: duckdb.DuckDBPyConnection) -> None:
    """Let the plans of a connection have all tables, also those that are empty."""
    named = db.sql("SELECT name FROM duckdb_optimizers()").fetchall()
    off = ",".join(name for (name,) in named if name not in MOVING)
    db.execute(f"SET disabled_optimizers = '{off}'")


def needed(db: duckdb.DuckDBPyConnection, sql: str) -> dict[str, str]:
    """Return the tables that a question reads, each with a condition for the folders of its files.

    Args:
        db: a confined connection to tables that are empty, after `show_all_tables`.
        sql: one statement that reads.

    Returns:
        By the names of tables: conditions in SQL on the names in PARTITIONS.

    Raises:
        duckdb.Error: DuckDB refuses the question.
    """
    (statement,) = duckdb.extract_statements(sql)
    if statement.type != duckdb.StatementType.SELECT or "getvariable" in sql.lower():
        return everything()
    try:
        ((_, plan),) = db.execute(f"EXPLAIN (FORMAT json) {sql}").fetchall()
    except duckdb.InterruptException:
        raise
    except duckdb.Error:
        db.sql(sql)  # raises the error that speaks of the question alone
        return everything()
    found: dict[str, set[str]] = defaultdict(set)
    for name, about in _ends(json.loads(plan)):
        if name == "SEQ_SCAN":
            table = about["Table"].rpartition(".")[2]
            found["files_maps" if table == "files_metadata" else table].add(_condition(about))
        elif not APART.fullmatch(name):
            return everything()
    return {table: ALL if ALL in of else " OR ".join(sorted(of)) for table, of in found.items()}


def meeting(db: duckdb.DuckDBPyConnection, condition: str, folders: list[str]) -> list[str]:
    """Return those of the folders below which a condition of `needed` may be met.

    Args:
        db: any connection.
        condition: the condition.
        folders: paths that name what is in PARTITIONS, or only the first of them.
    """
    with suppress(duckdb.Error):  # all, where DuckDB does not understand its own words
        if condition != ALL:
            found = db.execute(MEETING.format(condition=condition), [folders]).fetchall()
            return [folder for (folder,) in found]
    return folders


def _ends(parts: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and description of the parts of a plan that take rows from no other part."""
    for part in parts:
        if part["children"]:
            yield from _ends(part["children"])
        else:
            yield part["name"].strip(), part["extra_info"]


def _condition(scan: dict[str, Any]) -> str:
    """Return the condition that a plan's scan of a table has for the names of folders."""
    filters = scan.get("Filters") or []
    filters = [filters] if isinstance(filters, str) else filters
    if any(text.count("'") % 2 for text in filters):  # DuckDB parts a text with lines at their ends
        return ALL
    plain = (text.removeprefix("optional: ") for text in filters)
    return " AND ".join(f"({text})" for text in plain if PLAIN.fullmatch(text)) or ALL
