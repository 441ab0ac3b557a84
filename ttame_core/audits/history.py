"""The list of all audits of a lake, with a row for each."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ttame_core.errors import UserError, nearest
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect, table_of
from ttame_core.lake.query.units import shown
from ttame_core.lake.records import read_about, records

HEADLINE = ("AD@15", "IC@15")  # metrics whose means over the backbones are shown

# Queries over all records: the numbers of checks and failures of gates with the first failure, the
# rivals, and the means of each explainer.
VERDICTS = """
SELECT name || '/' || timestamp AS record, count(*) FILTER (gate <> '') AS checks,
       count(*) FILTER (failed) AS failed, first(words) FILTER (failed) AS words
FROM audit_changes GROUP BY ALL
"""
RIVALS = """
SELECT DISTINCT name || '/' || timestamp AS record, explainer FROM audits WHERE role = 'rival'
"""
MEANS = """
SELECT name || '/' || timestamp AS record, explainer, metric, avg(value) AS value
FROM audits WHERE list_contains(?, metric) GROUP BY ALL
"""

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("timestamp", pa.string()),
        ("backbones", pa.int64()),
        ("explainers", pa.int64()),
        ("failures", pa.int64()),
        ("gates", pa.string()),
        ("headline", pa.string()),
    ]
)


def audits(lake: Lake, name: str | None = None) -> pa.Table:
    """Return a table of past audits (SCHEMA), a row for each, the oldest first.

    The column `failures` has the number of backbones that failed; `headline` has the first gate
    that failed, else AD@15 and IC@15 of the audit's first rival.

    Args:
        lake: the workspace.
        name: name of audits; None for all.

    Raises:
        UserError: no audit has the name, or a record is not as it was written.
    """
    folders = records(lake)
    names = {folder.split("/")[1] for folder in folders}
    if name is not None and name not in names:
        raise UserError(f"{lake} has no audit called {name}." + nearest(name, names))
    with connect(lake) as db:
        verdicts = {record: rest for record, *rest in db.sql(VERDICTS).fetchall()}
        rivals = set(db.sql(RIVALS).fetchall())
        means = {
            (record, explainer, metric): value
            for record, explainer, metric, value in db.execute(MEANS, [HEADLINE]).fetchall()
        }
        rows = []
        for folder in sorted(folders, key=lambda f: (f.split("/")[2], f)):
            _, audit, timestamp = folder.split("/")
            if name not in (None, audit):
                continue
            about = read_about(lake, folder)
            record = f"{audit}/{timestamp}"
            checks, failed, words = verdicts.get(record, (0, 0, None))
            gates = f"{failed} of {checks} failed" if failed else f"{checks} hold" if checks else ""
            first = next((e for e in about.explainers if (record, e) in rivals), "")
            rows.append(
                {
                    "name": audit,
                    "timestamp": timestamp,
                    "backbones": len(about.backbones or []),
                    "explainers": len(about.explainers),
                    "failures": len(about.failures),
                    "gates": gates,
                    "headline": words or _headline(record, first, means),
                }
            )
        return table_of(db, rows, SCHEMA)


def _headline(record: str, first: str, means: dict[Any, float]) -> str:
    headline = [(m, means[record, first, m]) for m in HEADLINE if (record, first, m) in means]
    numbers = ", ".join(f"{metric} {shown(value, metric)}" for metric, value in headline)
    return f"{first}: {numbers}" if headline else ""
