"""The sections of a spec about what is explained, by which explainers, and how it is scored."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from ttame_core.spec.backbone import Backbone
from ttame_core.spec.base import Name, Section, Split, distinct


class Maps(Section):
    """The section of a spec about what is explained."""

    split: Split = Field("test", description="split whose images are explained")
    images: int | None = Field(
        None,
        ge=1,
        description="explain only the first so many images of the split, whose order is random; "
        "default: all",
    )
    targets: str | list[int | str] = Field(
        "predicted",
        description="predicted, above-P (as predicted, with the probability P in place of 0.5, for "
        "classes that do not exclude each other), label, top-K, or a list of classes: names or "
        "numbers",
    )
    dtype: Literal["float16", "uint8"] = Field(
        "float16",
        description="number format of stored maps; uint8 rounds to 255ths (docs/scale.md)",
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _targets(cls, targets: Any) -> Any:
        classes = isinstance(targets, list) and all(
            (type(t) is int and t >= 0) or (isinstance(t, str) and t) for t in targets
        )
        word = r"predicted|label|top-[1-9]\d*|above-0?\.\d*[1-9]\d*"
        words = isinstance(targets, str) and re.fullmatch(word, targets)
        if not words and not (classes and targets):
            raise ValueError(
                "allowed: predicted, above-P with P between 0 and 1, label, top-K, or a list of "
                "classes by name or number"
            )
        return targets


class Explainer(Section):
    """An explainer of an audit.

    A spec gives only its method, or also settings: `- rise: {masks: 8000, images: 200}`.

    All keys but `name` and `images` are the method's own (`ttame explainers` lists them). The
    default name of an explainer is its method, with `-permuted` where its head is trained on
    permuted labels.
    """

    method: str = Field(description="method, as `ttame explainers` lists them")
    name: Name = Field(
        "", description="name in the lake; default: the method", validate_default=False
    )
    images: int | None = Field(
        None, ge=1, description="explain only the first so many of the split; default: as in `maps`"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="keys of the method")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        value = _unfolded(value, "method")
        if isinstance(value, dict) and isinstance(value.get("method"), str):
            settings = value.get("settings")
            training = settings.get("training") if isinstance(settings, dict) else None
            permuted = isinstance(training, dict) and training.get("labels") == "permuted"
            return {"name": value["method"] + ("-permuted" if permuted else ""), **value}
        return value

    @property
    def training(self) -> dict[str, Any]:
        """The keys of the section `training` that this explainer overrides."""
        return self.settings.get("training", {})

    @property
    def auxiliary(self) -> Backbone | None:
        """The classifier that this explainer reads beside the explained one; None if none."""
        section = self.settings.get("auxiliary")
        return Backbone.model_validate(section) if section else None


class Metric(Section):
    """A family of metrics of an audit.

    A spec gives only its name, or also settings: `- confidence: {keep: [50, 15], images: 200}`.
    """

    family: str = Field(description="family, as `ttame metrics` lists them")
    images: int | None = Field(
        None, ge=1, description="score only the first so many of the split; default: all with maps"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="keys of the family")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return _unfolded(value, "family")


def _unfolded(value: Any, key: str) -> Any:
    """Write out the short forms of a list's entry, `name` and `{name: {images: …, setting: …}}`.

    Args:
        value: the entry as a spec gives it.
        key: key for the name in the result, such as `method`.

    Returns:
        A mapping with `key`, `images` and `settings`; other values as they are.
    """
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, dict) or key in value or len(value) != 1:
        return value
    ((chosen, about),) = value.items()
    if not isinstance(about, dict | None):
        return value
    own = dict(about or {})
    common = {k: own.pop(k) for k in ("name", "images") if k in own}
    return {key: chosen, **common, "settings": own}


class Evaluation(Section):
    """The section of a spec about how maps are scored."""

    metrics: list[Metric] = Field(
        default_factory=lambda: [Metric(family=f) for f in ("confidence", "localization", "shape")],
        min_length=1,
        description="families of metrics; default: confidence, localization, shape",
    )
    minimum_discrimination: float = Field(
        30.0,
        description="percentage points of AD@15 between the explainers random and oracle; with "
        "fewer, AD and IC say nothing about explainers",
    )

    @field_validator("metrics")
    @classmethod
    def _distinct(cls, metrics: list[Metric]) -> list[Metric]:
        return distinct("metrics", metrics, [m.family for m in metrics])

    @property
    def marked(self) -> Metric | None:
        """The family `marked`, which finds what is pasted; None where it is not asked for."""
        return next((metric for metric in self.metrics if metric.family == "marked"), None)
