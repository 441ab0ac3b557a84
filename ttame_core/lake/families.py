"""Families of scores in the lake: ttame's own, and those that other packages add.

What another package adds stands in its entry points of the group `ttame.scores`. It is apart from
the family's class, so that SQL is answered without importing torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from ttame_core.errors import UserError, nearest
from ttame_core.lake.schemas import PREDICTION, SCORES
from ttame_core.plugins import Registry, origin


@dataclass(frozen=True)
class Metric:
    """What a metric is: a row of the view `metrics`.

    pattern: its name, or the beginning of its names and `*`. lower_is_better: None where neither is
    better. unit: %, s, passes, or '' for plain numbers. principal: shown where there is no room for
    all.
    """

    pattern: str
    lower_is_better: bool | None
    description: str
    unit: str = ""
    principal: bool = True


@dataclass(frozen=True)
class Scores:
    """What the lake must know of a family of metrics.

    columns: of its rows, beside those of the map (key, label, predicted, target). values: a SELECT
    from the view that is called as the family, which makes values per image of its rows, a column
    per metric (ttame_core/lake/query/metric_values.py). metrics: a line for each of these.
    """

    columns: Sequence[tuple[str, pa.DataType]]
    values: str
    metrics: Sequence[Metric]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*PREDICTION, *self.columns])


def _refuse(name: str, found: object) -> str | None:
    if not isinstance(found, Scores):
        return f"is no {Scores.__module__}.Scores"
    if not name.isidentifier():
        return "is no name for a view of SQL: letters, digits and _ are"
    return None


# Those of other packages, by the family's name; ttame's own only keep theirs from being taken.
_ALL: Registry[pa.Schema | Scores] = Registry("ttame.scores", SCORES, _refuse)


def added() -> dict[str, Scores]:
    """The families of other packages. Raises UserError where one cannot be loaded."""
    return {name: found for name in _ALL.added if isinstance(found := _ALL[name], Scores)}


def origin_of(family: str) -> str:
    """Words for where a family of another package comes from."""
    return origin(_ALL.added[family])


def schemas() -> dict[str, pa.Schema]:
    """The schema of every family's files."""
    return SCORES | {name: scores.schema for name, scores in added().items()}


def schema_of(family: str) -> pa.Schema:
    """Of one family. Raises UserError where another package says nothing of it."""
    if family not in _ALL:
        raise UserError(
            f"no installed package says what rows the metric {family} has: it needs an entry point "
            f"{family} in the group ttame.scores (docs/extending.md)." + nearest(family, _ALL)
        )
    found = _ALL[family]
    return found.schema if isinstance(found, Scores) else found
