"""Values for queries, as variables of a connection or as literals in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb


def set_variables(db: duckdb.DuckDBPyConnection, values: Mapping[str, Any]) -> None:
    """Set variables of a connection, which queries read with `getvariable`."""
    for name, value in values.items():
        db.execute(f"SET VARIABLE {name} = {literal(value)}")


def literal(value: Any) -> str:
    """Return a text, number, list or mapping as an SQL literal of DuckDB."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items())
        return f"MAP {{{pairs}}}" if value else "MAP([]::VARCHAR[], []::VARCHAR[])"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(literal, value)) + "]" + ("" if value else "::VARCHAR[]")
    return repr(value)
