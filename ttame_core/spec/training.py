"""The section of a spec about the training of heads, and its recipes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from ttame_core.spec.base import Section, Seed, problem_of

# Found by measurement (docs/training.md): the defaults below are for classifiers that were trained
# on whole pictures; `occluded` is for those that were trained on partly black ones as well. The
# published recipe, `paper`, is for some 320,000 steps: a few hundred steps of its size hardly
# change a head.
RECIPES: dict[str, dict[str, Any]] = {
    "tuned": {},
    "whole": {},
    "occluded": {
        "lambda_area": 4.0,
        "lambda_confidence": 2.0,
        "map": "attention",
        "noise": 4.0,
        "fusion": "rows",
    },
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
        "fusion": "rows",
    },
}
LEAST_STEPS = {"shared": 150, "rows": 800}  # by fusion module (docs/training.md)


class Training(Section):
    """The section of a spec about the training of attention heads (docs/training.md)."""

    recipe: Literal["tuned", "whole", "occluded", "paper"] = Field(
        "tuned",
        description="whole: for classifiers trained on whole pictures; occluded: for those trained "
        "on partly black ones as well; tuned: one of the two, by how a classifier takes to masked "
        "training pictures, and whole where any of their keys is given; paper: as published",
    )
    epochs: int = Field(0, ge=0, description="least number of epochs")
    min_steps: int | None = Field(
        None,
        ge=0,
        description="least number of steps, in whole epochs; default: 150 where `fusion` is "
        "shared, since such a head starts near its end, else 800; with 0 steps and 0 epochs a head "
        "is what its start from gradients makes it",
    )
    batch_size: int = Field(32, ge=2, description="images of a step")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="method of optimisation")
    learning_rate: float = Field(5e-3, gt=0, description="peak of the one-cycle schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(5e-4, ge=0, description="of weights; biases have none")
    lambda_variation: float = Field(0.01, ge=0, description="λ1, weight of the map's variation")
    lambda_area: float = Field(2.0, ge=0, description="λ2, weight of the map's area")
    lambda_confidence: float = Field(1.5, ge=0, description="λ3, weight of the objective")
    lambda_start: float = Field(
        3.0,
        ge=0,
        description="weight of the squared distance of all classes' fusion weights from their "
        "start, where `fusion` is shared; published: 0",
    )
    area_exponent: float = Field(0.3, gt=0, description="λ4, exponent of the map in the area")
    objective: str = Field(
        "confidence",
        description="cross_entropy: cross-entropy of the masked image, as published; confidence: "
        "the confidence that the masked image lost",
    )
    map: Literal["attention", "class"] = Field(
        "class", description="maps that a head shows: class maps, as published, or attention"
    )
    masking: Literal["both", "auto", "raw", "normalised"] = Field(
        "both",
        description="images that are masked: raw ones, before normalisation, or normalised ones; "
        "auto, as published: raw for CNNs, normalised for transformers; both: half of a batch is "
        "masked by attention, half as metrics mask with 10 to 50 % of the pixels",
    )
    noise: float = Field(
        0.0,
        ge=0,
        description="standard deviation of smooth noise on class maps, which fades out over the "
        "first quarter of the steps; published: 0",
    )
    fusion: Literal["shared", "rows"] = Field(
        "shared",
        description="shared: one matrix for all classes, times each class's row of the "
        "classifier's last layer, which starts from gradients; published: rows, a row a class",
    )
    labels: Literal["predicted", "permuted"] = Field(
        "predicted",
        description="permuted: each image gets the class of another, for the random-label check",
    )
    validation_samples: int = Field(
        200, ge=0, description="images of the split val that a head is scored on, up to 8 times"
    )
    keep_gib: float = Field(
        4.0,
        ge=0,
        description="GiB of temporary disk that may keep what the classifier makes of whole "
        "training images, so that one pass less is made in each epoch; used on the CPU where a "
        "head has several epochs and all of it fits; 0: nothing is kept",
    )
    checkpoint_steps: int = Field(500, ge=1, description="steps between checkpoints")
    seed: Seed = Field(0, description="seed of the weights and of the images' order")

    @model_validator(mode="after")
    def _begins(self) -> Training:
        if self.fusion == "rows" and not self.is_trained:
            raise ValueError(
                "with 0 epochs and 0 min_steps a head is its start, and fusion: rows has none: "
                "give it epochs or min_steps"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, value: Any) -> Any:
        if isinstance(value, dict):
            recipe = value.get("recipe", recipe_of(value))
            own = RECIPES.get(recipe, {}) if isinstance(recipe, str) else {}
            return {**own, "recipe": recipe, **value}
        return value

    @property
    def least_steps(self) -> int:
        """The least number of steps: `min_steps`, or its default for this fusion module."""
        return LEAST_STEPS[self.fusion] if self.min_steps is None else self.min_steps

    @property
    def is_trained(self) -> bool:
        """Say whether a head has any steps beyond its start."""
        return bool(self.epochs or self.least_steps)

    def decided(self, reads_occluded: bool) -> Training:
        """Return these settings with the recipe `tuned` replaced by `occluded` or `whole`.

        `occluded` is for classifiers that recognise partly black pictures, `whole` for all others.
        A head that is not trained gets `whole`: only the heads of that recipe explain anything
        before they are trained.

        Args:
            reads_occluded: whether the classifier recognises pictures that are mostly black.
        """
        if self.recipe != "tuned":
            return self
        recipe = "occluded" if reads_occluded and self.is_trained else "whole"
        fields = type(self).model_fields
        keys = RECIPES[recipe].items()
        untouched = {key: own for key, own in keys if getattr(self, key) == fields[key].default}
        return self.model_copy(update={**untouched, "recipe": recipe})


def recipe_of(given: dict[str, Any]) -> str:
    """Return the default recipe of a section `training`, given its other keys.

    The default is `tuned`, or `whole` where the section sets a key that `tuned` would decide.
    """
    return "whole" if given.keys() & RECIPES["occluded"].keys() else "tuned"


def recipe_keys(name: str) -> dict[str, Any]:
    """Return the values that one recipe gives to the keys that differ between recipes.

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
