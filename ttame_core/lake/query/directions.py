"""The family, direction and unit of each metric, as the families' SQL files declare them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources

import duckdb

from ttame_core.errors import UserError
from ttame_core.lake import families


@dataclass(frozen=True)
class Direction:
    """The family, direction and unit of a metric.

    Attributes:
        place: position in reading order, from 1.
        family: heading under which the metric is listed.
        lower_is_better: whether lower values are better; None where neither is.
        unit: `%`, `s`, `passes`, or '' for plain numbers.
        principal: whether the metric is shown where there is no room for all.
        description: words for a listing.
    """

    place: int
    family: str
    lower_is_better: bool | None
    unit: str
    principal: bool
    description: str = ""


UNKNOWN = Direction(1000, "", None, "", False)


def add_directions(db: duckdb.DuckDBPyConnection) -> None:
    """Make the SQL table `metrics`, in which metrics of other packages come last.

    Raises:
        UserError: a metric of another package has a name that is taken.
    """
    db.execute(resources.files("ttame_core.lake.query").joinpath("sql/directions.sql").read_text())
    known = [{"pattern": pattern, **asdict(told)} for pattern, told in directions().items()]
    columns, lists = ", ".join(known[0]), [[row[name] for row in known] for name in known[0]]
    values = ", ".join("unnest(?)" for _ in lists)
    db.execute(f"INSERT INTO metrics ({columns}) SELECT {values}", lists)


@cache
def directions() -> dict[str, Direction]:
    """Return family, direction and unit of all metrics, by their patterns, in reading order.

    Raises:
        UserError: a metric of another package has a name that is taken.
    """
    known: dict[str, Direction] = {}
    for name, scores in families.in_order().items():
        for metric in scores.metrics:
            _refuse_known(known, name, metric.pattern)
            known[metric.pattern] = Direction(
                len(known) + 1,
                scores.family or name,
                metric.lower_is_better,
                metric.unit,
                metric.principal,
                metric.description,
            )
    return known


def _refuse_known(known: Iterable[str], family: str, pattern: str) -> None:
    for other in known:
        if fnmatchcase(pattern.rstrip("*"), other) or fnmatchcase(other.rstrip("*"), pattern):
            raise UserError(
                f"{families.origin_of(family)} has a metric {pattern}, and {other} is there "
                "already: give the metric another name"
            )


def direction(metric: str) -> Direction:
    """Return family, direction and unit of a metric; UNKNOWN where no family lists it.

    Args:
        metric: full name, such as AD@15/blur.
    """
    matching = (d for pattern, d in directions().items() if fnmatchcase(metric, pattern))
    return next(matching, UNKNOWN)


def source(metric: str) -> str:
    """Return the family whose rows a metric is computed from.

    That is the family under which the metric is listed, unless its SQL file names another.

    Args:
        metric: full name, such as AD@15/blur.
    """
    named = (scores for scores in families.in_order().values() if metric in scores.listed)
    return next((s.source for s in named if s.source), direction(metric).family)


def stems() -> list[str]:
    """Return the beginnings of metrics' names (their patterns without `*`), in reading order."""
    return [pattern.removesuffix("*") for pattern in directions()]
