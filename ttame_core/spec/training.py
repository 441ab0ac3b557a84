"""The section of a spec about the training of heads, and its recipes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from ttame_core.errors import nearest
from ttame_core.spec.base import Section, Seed

# `tuned`, the defaults below, was found by measurement: docs/training.md. The published recipe is
# for some 320,000 steps; within a few hundred its step size leaves the head where it began.
RECIPES: dict[str, dict[str, Any]] = {
    "tuned": {},
    "paper": {
        "epochs": 8,
        "min_steps": 0,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "lambda_area": 2.0,
        "lambda_confidence": 1.5,
        "objective": "cross_entropy",
        "map": "class",
        "masking": "auto",
        "noise": 0.0,
    },
}


class Training(Section):
    """Training of attention heads. Other constants than the published: docs/training.md."""

    recipe: Literal["tuned", "paper"] = "tuned"
    epochs: int = Field(4, ge=1)
    min_steps: int = Field(800, ge=0, description="small data sets get the epochs that this takes")
    batch_size: int = Field(32, ge=2)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(5e-3, gt=0, description="peak of the one-cycle schedule")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, description="on weights; none on biases")
    lambda_variation: float = Field(0.01, ge=0, description="λ1")
    lambda_area: float = Field(4.0, ge=0, description="λ2")
    lambda_confidence: float = Field(2.0, ge=0, description="λ3")
    area_exponent: float = Field(0.3, gt=0, description="λ4")
    objective: str = Field(
        "confidence",
        description="cross_entropy: of the masked image, as published; confidence: what it lost",
    )
    map: Literal["attention", "class"] = Field(
        "attention", description="what is shown: class maps, as published, or attention maps"
    )
    masking: Literal["both", "auto", "raw", "normalised"] = Field(
        "both",
        description="both: half of a batch by attention, half as metrics mask; published: raw "
        "(before normalisation) for CNNs and normalised for transformers, which is auto",
    )
    noise: float = Field(
        4.0,
        ge=0,
        description="standard deviation of smooth noise on class maps, which fades out in the "
        "first quarter of the steps; published: 0",
    )
    labels: Literal["predicted", "permuted"] = Field(
        "predicted",
        description="permuted: each image gets another's class, for the random-label check",
    )
    validation_samples: int = Field(200, ge=0, description="of split val, up to 8 times")
    checkpoint_steps: int = Field(500, ge=1, description="steps between checkpoints")
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, value: Any) -> Any:
        if isinstance(value, dict):
            recipe = value.get("recipe", "tuned")
            return {**(RECIPES.get(recipe, {}) if isinstance(recipe, str) else {}), **value}
        return value


def recipe_keys(name: str) -> dict[str, Any]:
    """All that any recipe sets, as this one has it."""
    own = Training.model_validate({"recipe": name})
    return {key: getattr(own, key) for recipe in RECIPES.values() for key in recipe}


def training_keys(given: dict[str, Any]) -> dict[str, Any]:
    """Some keys of a training section, checked. Raises ValueError in one line."""
    try:
        checked = Training.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            allowed = sorted(Training.model_fields)
            raise ValueError(
                f"unknown key {key}; allowed: {', '.join(allowed)}." + nearest(key, allowed)
            ) from None
        raise ValueError(f"{key}: {first['msg']} (got {first['input']!r})") from None
    return {key: getattr(checked, key) for key in given}
