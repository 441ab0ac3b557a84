"""What each metric is: its family, direction and unit, as the families have it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources

import duckdb

from ttame_core.errors import UserError
from ttame_core.lake import families


@dataclass(frozen=True)
class Direction:
    """place: in reading order. lower_is_better: None where that is not known.

    unit: %, s, passes, or '' for plain numbers. principal: shown where there is no room for all.
    """

    place: int
    family: str
    lower_is_better: bool | None
    unit: str
    principal: bool


UNKNOWN = Direction(1000, "", None, "", False)


def add_directions(db: duckdb.DuckDBPyConnection) -> None:
    """Make the table `metrics`, other packages' metrics last.

    Raises:
        UserError: one of these has the name of a metric that is there.
    """
    db.execute(resources.files("ttame_core.lake.query").joinpath("sql/directions.sql").read_text())
    for name, scores in families.in_order().items():
        for metric in scores.metrics:
            _refuse_known(db, name, metric.pattern)
            db.execute(
                "INSERT INTO metrics SELECT count(*) + 1, ?, ?, ?, ?, ?, ? FROM metrics",
                [
                    metric.pattern,
                    scores.family or name,
                    metric.lower_is_better,
                    metric.unit,
                    metric.principal,
                    metric.description,
                ],
            )


def _refuse_known(db: duckdb.DuckDBPyConnection, family: str, pattern: str) -> None:
    known = db.execute(
        "SELECT pattern FROM metrics "
        "WHERE rtrim($1, '*') GLOB pattern OR rtrim(pattern, '*') GLOB $1",
        [pattern],
    ).fetchone()
    if known:
        raise UserError(
            f"{families.origin_of(family)} has a metric {pattern}, and {known[0]} is there "
            "already: give it a name of its own"
        )


@cache
def directions() -> dict[str, Direction]:
    """Of all metrics by pattern, in reading order."""
    with duckdb.connect() as db:
        add_directions(db)
        rows = db.sql(
            "SELECT pattern, place, family, lower_is_better, unit, principal FROM metrics "
            "ORDER BY place"
        ).fetchall()
    return {pattern: Direction(*rest) for pattern, *rest in rows}


def direction(metric: str) -> Direction:
    """Of a metric by its full name, such as AD@15/blur; UNKNOWN for one that is not listed."""
    matching = (d for pattern, d in directions().items() if fnmatchcase(metric, pattern))
    return next(matching, UNKNOWN)


def source(metric: str) -> str:
    """Return the family whose rows a metric is worked out from: as said, else that it is listed in.

    Args:
        metric: a full name, such as AD@15/blur.
    """
    named = (scores for scores in families.in_order().values() if metric in scores.listed)
    return next((s.source for s in named if s.source), direction(metric).family)


def stems() -> list[str]:
    """The names that metrics begin with, in reading order."""
    return [pattern.removesuffix("*") for pattern in directions()]
