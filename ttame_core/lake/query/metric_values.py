"""Metrics in SQL: values per image, and their sums in groups of images.

Each family (ttame_core/lake/families.py) brings one SELECT with a row per image, or per image and
setting: dataset, backbone, explainer, key, and a numeric column for each metric, with its name. The
columns `level` (a number) and `fill` (a text) complete the name, as in AD@15 and AD@15/blur. A
SELECT whose metrics' names are data has a column `metric` with the name, and one column `value`.
"""

from __future__ import annotations

from collections.abc import Collection

import duckdb

from ttame_core.errors import UserError
from ttame_core.lake import families

IDENTITY = ("dataset", "backbone", "explainer", "key")
SETTINGS = {"metric": "VARCHAR", "level": "FLOAT", "fill": "VARCHAR"}


def add_metrics(db: duckdb.DuckDBPyConnection, names: Collection[str] | None = None) -> None:
    """Make the views `values_<name>` of each family, and `metric_values` and `metric_sums` of all.

    They have values for each image, the same as rows of metric and value, and sums over images.

    Args:
        db: connection with a view of each family's rows.
        names: families to make the views for; None for all.

    Raises:
        UserError: the SELECT of a family of another package is wrong.
    """
    values, sums = [], []
    for name, scores in sorted(families.registry().items(), key=lambda item: item[0]):
        if names is not None and name not in names:
            continue
        try:
            db.execute(f"CREATE VIEW values_{name} AS\n{scores.values}")
        except duckdb.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(f"the SQL of {families.origin_of(name)} is wrong: {reason}") from error
        columns = db.sql(f"FROM values_{name} LIMIT 0").columns
        values.append(_values(name, columns))
        sums.append(_sums(name, columns))
    db.execute("CREATE VIEW metric_values AS\n" + "\nUNION ALL\n".join(values))
    db.execute("CREATE VIEW metric_sums AS\n" + "\nUNION ALL\n".join(sums))


def _measures(columns: list[str]) -> list[str]:
    return [c for c in columns if c not in IDENTITY and c not in SETTINGS]


def _names(columns: list[str]) -> str:
    """Return an SQL list of metrics' names, which `unnest` puts beside a list of their values."""
    return "[" + ", ".join(f"'{m}'" for m in _measures(columns)) + "]"


def _settings(columns: list[str]) -> str:
    return ", ".join(c if c in columns else f"NULL::{t} AS {c}" for c, t in SETTINGS.items())


def _values(name: str, columns: list[str]) -> str:
    measures = ", ".join(f'"{m}"::DOUBLE' for m in _measures(columns))
    return f"""
SELECT dataset, backbone, explainer, key, metric_name(measure, metric, level, fill) AS metric, value
FROM (
    SELECT dataset, backbone, explainer, key, {_settings(columns)},
           unnest({_names(columns)}) AS measure, unnest([{measures}]) AS value
    FROM values_{name}
) WHERE value IS NOT NULL"""


def _sums(name: str, columns: list[str]) -> str:
    """Return the SELECT that sums a family's values over each group (bucket) of images.

    For speed, it sums before columns become rows of metric and value.
    """
    own = "".join(f", {c}" for c in SETTINGS if c in columns)
    measures = _measures(columns)
    totals = ", ".join(f'sum("{m}")::DOUBLE AS total_{i}' for i, m in enumerate(measures))
    counts = ", ".join(f'count("{m}") AS count_{i}' for i, m in enumerate(measures))
    return f"""
SELECT dataset, backbone, explainer, '{name}' AS source, measure, metric, level, fill, bucket,
       total, n
FROM (
    SELECT dataset, backbone, explainer, bucket, {_settings(columns)},
           unnest({_names(columns)}) AS measure,
           unnest([{", ".join(f"total_{i}" for i in range(len(measures)))}]) AS total,
           unnest([{", ".join(f"count_{i}" for i in range(len(measures)))}]) AS n
    FROM (
        SELECT dataset, backbone, explainer{own}, hash(key) % 256 AS bucket, {totals}, {counts}
        FROM values_{name} GROUP BY dataset, backbone, explainer{own}, bucket
    )
) WHERE n > 0"""
