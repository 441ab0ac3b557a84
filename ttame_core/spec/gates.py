"""The section of a spec about gates: conditions that an audit's results must meet."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from ttame_core.spec.base import Section

CHANGED_MAPS = "changed_maps"  # a gate checks a metric, or this


class Gate(Section):
    """A condition that the audit's results must meet: `- AD@15: {explainer: ttame, worse_by: 2}`.

    A gate has exactly one of `worse_by`, `at_least` and `at_most`.
    """

    metric: str = Field(
        description="full name of a metric, such as AD@15; or changed_maps, the percentage of "
        "images whose map and the last audit's map of it have a correlation under `correlation`"
    )
    backbone: str = Field("*", description="pattern of backbones' names")
    explainer: str | None = Field(
        None, description="pattern of explainers' names; default: all but yardsticks (random, …)"
    )
    worse_by: float | None = Field(
        None,
        ge=0,
        description="the gate fails if the metric has become worse since the last audit by more "
        "than this, in the metric's unit, and by more than chance on the same images",
    )
    at_least: float | None = Field(None, description="the gate fails below this value")
    at_most: float | None = Field(None, description="the gate fails above this value")
    correlation: float | None = Field(
        None, ge=-1, le=1, description="of changed_maps: a map under it has changed; default: 0.8"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, dict) and "metric" not in value and len(value) == 1:
            ((metric, about),) = value.items()
            if isinstance(about, dict):
                value = {"metric": metric, **about}
        if isinstance(value, dict) and value.get("metric") == CHANGED_MAPS:
            value = {"correlation": 0.8, **value}
        return value

    @model_validator(mode="after")
    def _one_condition(self) -> Gate:
        conditions = ("worse_by", "at_least", "at_most")
        given = [name for name in conditions if getattr(self, name) is not None]
        if self.metric == CHANGED_MAPS and given != ["at_most"]:
            raise ValueError(f"the gate {self} takes `at_most`, a percentage of the images")
        if len(given) != 1:
            raise ValueError(
                f"the gate {self} has {len(given) or 'no'} conditions: give it one of "
                + ", ".join(conditions)
            )
        if self.correlation is not None and self.metric != CHANGED_MAPS:
            raise ValueError(f"the gate {self} has a `correlation`, which only changed_maps takes")
        return self

    def __str__(self) -> str:
        """Return the gate as a spec writes it."""
        given = self.model_dump(exclude={"metric"}, exclude_defaults=True)
        settings = (
            f"{k}: {v:g}" if isinstance(v, float) else f"{k}: {v}" for k, v in given.items()
        )
        return f"{self.metric}: {{{', '.join(settings)}}}"
