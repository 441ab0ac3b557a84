"""Families of scores in the lake: ttame's own, and those that other packages add.

The lake knows a family by one SQL file, apart from the class that computes its rows, so that SQL is
answered without importing torch. ttame's own families are the files `ttame_core/metrics/*.sql`; in
another package, an entry point of the group `ttame.scores` names a `Scores`, which
`Scores.from_sql` makes from such a file.

The file begins with a comment in YAML. The rest is one SELECT (lake/query/metric_values.py):

    /*
    order: 30                # position of its metrics among ttame's, in reading order
    columns: {p: FLOAT}      # columns of its rows, beside those of the map, in SQL types (TYPES)
    from: confidence         # in place of columns: the family whose rows the SELECT reads
    family: backbone         # heading under which its metrics are listed; default: its own name
    metrics:                 # by their names, or by the beginning of names and *
      AD@*:
        better: lower        # or higher; left out where neither is better
        unit: "%"            # or s, or passes; left out for plain numbers
        principal: true      # the default; false: left out where there is no room for all
        description: average drop
      sanity_labels: sanity_*   # a metric that this pattern of another family lists already
    */
    SELECT …
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict, Field

from ttame_core.errors import UserError, nearest
from ttame_core.lake.schemas import PREDICTION
from ttame_core.plugins import Registry, origin

TYPES = {
    "BOOLEAN": pa.bool_(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
}


@dataclass(frozen=True)
class Metric:
    """The meaning of a metric: a row of the view `metrics`.

    Attributes:
        pattern: name of the metric, or the beginning of its names and `*`.
        lower_is_better: whether lower values are better; None where neither is.
        description: words for a listing.
        unit: `%`, `s`, `passes`, or '' for plain numbers.
        principal: whether the metric is shown where there is no room for all.
    """

    pattern: str
    lower_is_better: bool | None
    description: str
    unit: str = ""
    principal: bool = True


@dataclass(frozen=True)
class Scores:
    """A family of metrics as the lake knows it.

    Attributes:
        columns: columns of the family's rows, beside those of the map (key, label, predicted,
            target); none where its metrics are computed from the rows of another family.
        values: a SELECT that makes values per image, a column per metric
            (ttame_core/lake/query/metric_values.py).
        metrics: metrics that the SELECT makes.
        listed: names of this family's metrics that another family lists already, by a pattern such
            as `sanity_*`.
        order: position of its metrics in reading order; None for after all that have one.
        source: name of the family whose rows the SELECT reads; None for the family itself.
        family: heading under which its metrics are listed; None for its own name.
    """

    columns: Sequence[tuple[str, pa.DataType]]
    values: str
    metrics: Sequence[Metric]
    listed: Sequence[str] = ()
    order: int | None = None
    source: str | None = None
    family: str | None = None

    @classmethod
    def from_sql(cls, text: str) -> Scores:
        """Read a family from the text of its SQL file.

        Args:
            text: a comment in YAML, as the module's docstring shows it, and a SELECT.

        Raises:
            ValueError: the comment is missing or wrong.
        """
        parts = re.match(r"\s*/\*(.*?)\*/\s*(.*)", text, re.DOTALL)
        if not parts:
            raise ValueError("the SQL does not begin with a comment /* … */ about its metrics")
        said = _Comment.model_validate(yaml.safe_load(parts[1]))
        about = {p: m for p, m in said.metrics.items() if isinstance(m, _Metric)}
        return cls(
            columns=[(name, _arrow_type(type)) for name, type in said.columns.items()],
            values=parts[2],
            metrics=[
                Metric(pattern, m.lower_is_better, m.description, m.unit, m.principal)
                for pattern, m in about.items()
            ],
            listed=[name for name in said.metrics if name not in about],
            order=said.order,
            source=said.source,
            family=said.family,
        )

    @property
    def schema(self) -> pa.Schema:
        """The schema of the family's files."""
        return pa.schema([*PREDICTION, *self.columns])


class _Metric(BaseModel):
    """A metric in the comment of a SQL file."""

    model_config = ConfigDict(extra="forbid")

    better: Literal["lower", "higher"] | None = None
    description: str
    unit: str = ""
    principal: bool = True

    @property
    def lower_is_better(self) -> bool | None:
        return None if self.better is None else self.better == "lower"


class _Comment(BaseModel):
    """The comment that a SQL file begins with."""

    model_config = ConfigDict(extra="forbid")

    order: int | None = None
    columns: dict[str, str] = {}
    source: str | None = Field(None, alias="from")
    family: str | None = None
    metrics: dict[str, _Metric | str]


def _arrow_type(type: str) -> pa.DataType:
    """Return the Arrow type for an SQL type: one of TYPES, or a list of one, such as FLOAT[]."""
    parts = re.fullmatch(r"(\w+)(?:\[(\d*)\])?", type)
    if not parts or parts[1] not in TYPES:
        raise ValueError(f"unknown type {type}; allowed: {', '.join(TYPES)}, and lists of them")
    if parts[2] is None:
        return TYPES[parts[1]]
    return pa.list_(TYPES[parts[1]], int(parts[2] or -1))


def _refuse(name: str, loaded: object) -> str | None:
    if not isinstance(loaded, Scores):
        return f"is no {Scores.__module__}.Scores"
    if not name.isidentifier():
        return "has a name that SQL cannot have for a view: use letters, digits and _"
    return None


@cache
def registry() -> Registry[Scores]:
    """Return the registry of all families; those of other packages are loaded when looked up."""
    folder = resources.files("ttame_core").joinpath("metrics")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    own = {f.name.removesuffix(".sql"): Scores.from_sql(f.read_text("utf-8")) for f in files}
    return Registry("ttame.scores", own, _refuse)


def in_order() -> Mapping[str, Scores]:
    """Return all families by name in reading order, those of other packages last.

    Raises:
        UserError: a family of another package cannot be loaded.
    """
    families = registry()

    def place(name: str) -> tuple[bool, float]:
        order = families[name].order
        return name in families.added, float("inf") if order is None else order

    return {name: families[name] for name in sorted(families, key=place)}


def with_rows() -> dict[str, Scores]:
    """Return the families that have files of their own, by name."""
    return {name: scores for name, scores in registry().items() if scores.columns}


def origin_of(family: str) -> str:
    """Return words that say where a family comes from, for messages."""
    added = registry().added
    return origin(added[family]) if family in added else f"ttame's own family {family}"


def schemas() -> dict[str, pa.Schema]:
    """Return the schema of every family's files, by the family's name."""
    return {name: scores.schema for name, scores in with_rows().items()}


def schema_of(family: str) -> pa.Schema:
    """Return the schema of one family's files.

    Raises:
        UserError: no installed package defines the family.
    """
    families = registry()
    if family not in families or not families[family].columns:
        raise UserError(
            f"no installed package says which columns the metric {family} has: it needs an entry "
            f"point {family} in the group ttame.scores (docs/extending.md)."
            + nearest(family, list(families))
        )
    return families[family].schema
