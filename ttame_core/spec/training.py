"""The section of a spec about the training of heads, and its recipes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from ttame_core.spec.base import Section, Seed, problem_of

# The recipe `tuned`, whose values are the defaults below, was found by measurement: see
# docs/training.md. The published recipe, `paper`, is for some 320,000 steps: a few hundred steps of
# its size hardly change a head.
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
    """The section of a spec about the training of attention heads (docs/training.md)."""

    recipe: Literal["tuned", "paper"] = "tuned"
    epochs: int = Field(4, ge=1)
    min_steps: int = Field(
        800, ge=0, description="least number of steps; small data sets get more epochs for it"
    )
    batch_size: int = Field(32, ge=2)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(5e-3, gt=0, description="peak of the one-cycle schedule")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, description="of weights; biases have none")
    lambda_variation: float = Field(0.01, ge=0, description="λ1, weight of the map's variation")
    lambda_area: float = Field(4.0, ge=0, description="λ2, weight of the map's area")
    lambda_confidence: float = Field(2.0, ge=0, description="λ3, weight of the objective")
    area_exponent: float = Field(0.3, gt=0, description="λ4, exponent of the map in the area")
    objective: str = Field(
        "confidence",
        description="cross_entropy: cross-entropy of the masked image, as published; confidence: "
        "the confidence that the masked image lost",
    )
    map: Literal["attention", "class"] = Field(
        "attention", description="maps that a head shows: class maps, as published, or attention"
    )
    masking: Literal["both", "auto", "raw", "normalised"] = Field(
        "both",
        description="images that are masked: raw ones, before normalisation, or normalised ones; "
        "auto, as published: raw for CNNs, normalised for transformers; both: half of a batch is "
        "masked by attention, half as metrics mask",
    )
    noise: float = Field(
        4.0,
        ge=0,
        description="standard deviation of smooth noise on class maps, which fades out over the "
        "first quarter of the steps; published: 0",
    )
    labels: Literal["predicted", "permuted"] = Field(
        "predicted",
        description="permuted: each image gets the class of another, for the random-label check",
    )
    validation_samples: int = Field(
        200, ge=0, description="images of the split val that a head is scored on, up to 8 times"
    )
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
    """Return the values that a recipe gives to all keys that any recipe sets.

    Args:
        name: name of the recipe.
    """
    own = Training.model_validate({"recipe": name})
    return {key: getattr(own, key) for recipe in RECIPES.values() for key in recipe}


def training_keys(given: dict[str, Any]) -> dict[str, Any]:
    """Check some keys of a section `training`, and return them with their validated values.

    Raises:
        ValueError: a key is unknown or its value wrong; one line says which and what is allowed.
    """
    try:
        checked = Training.model_validate(given)
    except ValidationError as error:
        raise ValueError(problem_of(error, Training.model_fields)) from None
    return {key: getattr(checked, key) for key in given}
