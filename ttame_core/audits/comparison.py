"""Comparison of two explainers, two backbones or two audits, paired image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from ttame_core.audits.statistics import SIGNIFICANT, bootstrap_weights, holm, paired
from ttame_core.errors import UserError, nearest
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect, table_of
from ttame_core.lake.query.directions import direction
from ttame_core.lake.query.metric_values import SETTINGS
from ttame_core.lake.records import check_record, records

KINDS = ("explainer", "backbone", "audit")
Pairs = dict[str, np.ndarray]  # columns by name: without PyArrow, whose to_numpy imports pandas


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison of two things of one kind.

    Attributes:
        kind: explainer, backbone or audit.
        a: name of the first.
        b: name of the second.
        rows: a row for each metric and for each data set, backbone and explainer that both share.
            Columns: those of dataset, backbone and explainer that are not compared; metric; a and
                b, means over the pairs; difference, a − b, with its 95 % paired bootstrap interval,
                ci_low and ci_high; p of Wilcoxon's signed-rank test; p_corrected (Holm, over all
                rows); better, the name of the significantly better one, or null; pairs, their
                number.
    """

    kind: str
    a: str
    b: str
    rows: pa.Table


def compare(lake: Lake, a: str, b: str, dataset: str | None = None) -> Comparison:
    """Compare two explainers, two backbones, or two audits of the lake.

    Pairs are the images that both have; SQL returns them for one metric at a time.

    Args:
        lake: the workspace.
        a: name of an explainer or of a backbone, or an audit: name/timestamp, name@latest or
            name@previous.
        b: name of another one of the same kind.
        dataset: name of a data set; None for all.

    Raises:
        UserError: a name is unknown, the two are not of one kind, a record is not as it was
            written, or no image has scores of both.
    """
    kind, a, b = _resolved(lake, a, b)
    for record in (a, b) if kind == "audit" else ():
        check_record(lake, f"audits/{record}")
    with connect(lake) as db:
        rows = _compared(db, kind, a, b, dataset or "")
    if not rows.num_rows:
        raise UserError(f"{a} and {b} cannot be compared: no image has scores of both")
    return Comparison(kind, a, b, rows)


def compare_audits(
    db: duckdb.DuckDBPyConnection, a: str, b: str, dataset: str
) -> list[dict[str, Any]]:
    """Return the rows of a comparison of two audits; none where they share nothing.

    Args:
        db: connection to the lake.
        a: an audit, name/timestamp.
        b: another audit, name/timestamp.
        dataset: name of the data set.
    """
    return _compared(db, "audit", a, b, dataset).to_pylist()


def _compared(db: duckdb.DuckDBPyConnection, kind: str, a: str, b: str, dataset: str) -> pa.Table:
    cell = ["dataset", *(k for k in ("backbone", "explainer") if k != kind)]
    rows = []
    weights = bootstrap_weights(db)
    for metric, values, parameters in _metrics(db, kind, a, b):
        pairs = _pairs(db, values, parameters, kind, cell, (a, b, dataset))
        for names, part in _cells(pairs, cell):
            bucket, x, y = (part[c] for c in ("bucket", "a", "b"))
            rows.append(
                dict(zip(cell, names, strict=True))
                | {"metric": metric, "a": x.mean(), "b": y.mean()}
                | paired(x - y, bucket, weights)
            )
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_corrected"] = corrected
        row["better"] = _better(row, a, b)
    rows.sort(key=lambda r: (*(r[c] for c in cell), direction(r["metric"]).place, r["metric"]))
    return table_of(db, rows, _schema(cell))


def _schema(cell: Sequence[str]) -> pa.Schema:
    numbers = ("a", "b", "difference", "ci_low", "ci_high", "p", "p_corrected")
    return pa.schema(
        [
            *((name, pa.string()) for name in (*cell, "metric")),
            *((name, pa.float64()) for name in numbers),
            ("better", pa.string()),
            ("pairs", pa.int64()),
        ]
    )


def _better(row: dict, a: str, b: str) -> str | None:
    """Return `a` or `b`, whichever is better by both the test and the interval; else None."""
    lower = direction(row["metric"]).lower_is_better
    if lower is None or row["p_corrected"] >= SIGNIFICANT or row["ci_low"] <= 0 <= row["ci_high"]:
        return None
    return a if (row["difference"] < 0) == lower else b


# ---- the pairs ------------------------------------------------------------------------------


def _metrics(
    db: duckdb.DuckDBPyConnection, kind: str, a: str, b: str
) -> Iterator[tuple[str, str, list]]:
    """Yield each metric that one of the two has.

    Args:
        db: connection to the lake.
        kind: explainer, backbone or audit.
        a: name of the first.
        b: name of the second.

    Yields:
        The metric's name, a SELECT of its value for each image, and the parameters of the SELECT.
    """
    if kind == "audit":
        metrics = db.execute(
            "SELECT DISTINCT metric FROM audit_values WHERE name || '/' || timestamp IN (?, ?)",
            [a, b],
        ).fetchall()
        for (metric,) in metrics:
            values = (
                "SELECT dataset, backbone, explainer, key, value, "
                "name || '/' || timestamp AS audit FROM audit_values WHERE metric = ?"
            )
            yield metric, values, [metric]
        return
    measures = db.execute(
        f"SELECT DISTINCT source, measure, metric_name(measure, metric, level, fill), "
        f"{', '.join(SETTINGS)} FROM metric_sums WHERE {kind} IN (?, ?)",
        [a, b],
    ).fetchall()
    sources = {source for source, *_ in measures}
    columns = {source: db.sql(f"FROM values_{source} LIMIT 0").columns for source in sources}
    for source, measure, metric, *settings in measures:
        named = zip(SETTINGS, settings, strict=True)
        chosen = {c: v for c, v in named if c in columns[source]}
        where = " AND ".join(["true", *(f"{c} IS NOT DISTINCT FROM ?" for c in chosen)])
        values = (
            f'SELECT dataset, backbone, explainer, key, "{measure}" AS value '
            f"FROM values_{source} WHERE {where}"
        )
        yield metric, values, list(chosen.values())


def _pairs(
    db: duckdb.DuckDBPyConnection,
    values: str,
    parameters: list,
    kind: str,
    cell: Sequence[str],
    chosen: tuple[str, str, str],
) -> Pairs:
    """Pair the values of one metric, image by image.

    Args:
        db: connection to the lake.
        values: SELECT of the metric's values, a row for each image.
        parameters: parameters of that SELECT.
        kind: column in which the two names stand: explainer, backbone or audit.
        cell: columns within which images are paired, such as dataset and backbone.
        chosen: both names, and the name of the data set, or '' for all.

    Returns:
        Columns with an element for each image that both have in a cell: those of `cell`; bucket,
        the image's group for the bootstrap; a and b, the two values.
    """
    columns = ", ".join(cell)
    a, b, dataset = chosen
    return db.sql(
        f"""
        SELECT {columns}, (hash(key) % 256)::INT AS bucket,
               avg(value::DOUBLE) FILTER ({kind} = ?) AS a,
               avg(value::DOUBLE) FILTER ({kind} = ?) AS b
        FROM ({values})
        WHERE {kind} IN (?, ?) AND ? IN ('', dataset)
        GROUP BY {columns}, key
        HAVING a IS NOT NULL AND b IS NOT NULL
        ORDER BY {columns}, key
        """,
        params=[a, b, *parameters, a, b, dataset],
    ).fetchnumpy()


def _cells(pairs: Pairs, cell: Sequence[str]) -> Iterator[tuple[list[str], Pairs]]:
    """Yield each cell of pairs that are sorted by cell: the values that name it, and its pairs."""
    rows = len(pairs["bucket"])
    changes = [pairs[c][1:] != pairs[c][:-1] for c in cell]
    starts = [0, *np.flatnonzero(np.any(changes, axis=0)) + 1][:rows]
    for start, end in pairwise([*starts, rows]):
        part = {name: values[start:end] for name, values in pairs.items()}
        yield [part[c][0] for c in cell], part


# ---- names ----------------------------------------------------------------------------------


def _resolved(lake: Lake, a: str, b: str) -> tuple[str, str, str]:
    """Return what two names are both, explainer, backbone or audit, and the full names."""
    known = _known(lake)
    a, b = (_audit(known["audit"], name) for name in (a, b))
    everything = {name for names in known.values() for name in names}
    for name in (a, b):
        if name not in everything:
            raise UserError(
                f"{name} is no explainer, backbone or audit of {lake}." + nearest(name, everything)
            )
    shared = [kind for kind in KINDS if a in known[kind] and b in known[kind]]
    if not shared:
        kinds = [next(k for k in KINDS if name in known[k]) for name in (a, b)]
        raise UserError(
            f"{a} ({kinds[0]}) and {b} ({kinds[1]}) cannot be compared: name two explainers, two "
            "backbones or two audits"
        )
    if a == b:
        raise UserError(f"{a} is compared with itself: name another {shared[0]}")
    return shared[0], a, b


def _known(lake: Lake) -> dict[str, set[str]]:
    folders = [
        dict(part.split("=", 1) for part in path.split("/")[1:])
        for path in lake.glob("scores/metric=*/dataset=*/backbone=*/explainer=*")
    ]
    return {
        "explainer": {f["explainer"] for f in folders},
        "backbone": {f["backbone"] for f in folders},
        "audit": {folder.removeprefix("audits/") for folder in records(lake)},
    }


def _audit(audits: set[str], name: str) -> str:
    """Return name/timestamp for name@latest and name@previous, and any other name as it is."""
    audit, _, which = name.partition("@")
    if which not in ("latest", "previous"):
        return name
    own = sorted(record for record in audits if record.split("/")[0] == audit)
    back = 1 if which == "latest" else 2
    if len(own) < back:
        known = sorted({record.split("/")[0] for record in audits})
        times = {0: "no record", 1: "one record only"}[len(own)]
        raise UserError(f"the audit {audit} has {times} to compare." + nearest(audit, known))
    return own[-back]
