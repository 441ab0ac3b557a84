"""The section of a spec about a classifier, and how one is trained."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ttame_core.spec.base import Labels, Name, Section, Seed, is_folder
from ttame_core.spec.trusted import is_trusted

TEMPLATE = "a photo of a {}"


class Preprocessing(Section):
    """The section of a spec that overrides the preprocessing in a model's own configuration."""

    input_size: tuple[int, int] | None = Field(None, description="height, width")
    crop_pct: float | None = Field(
        None, gt=0, le=1, description="side of the central crop, as a share of the resized image's"
    )
    crop_mode: Literal["center", "squash", "border"] | None = Field(
        None,
        description="center: resize the shorter side and crop; squash: resize both sides; border: "
        "resize the longer side and pad",
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] | None = Field(
        None, description="of the resizing"
    )
    mean: tuple[float, ...] | None = Field(
        None, min_length=1, description="of each channel in [0, 1], which is subtracted"
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, min_length=1, description="of each channel in [0, 1], by which it is divided"
    )
    channel_order: Literal["rgb", "bgr"] | None = Field(
        None, description="of the channels as the network takes them; `mean` and `std` follow it"
    )


class Fit(Section):
    """The section of a spec about training a classifier on the data set itself."""

    epochs: int = Field(60, ge=1, description="passes through the split train")
    batch_size: int = Field(32, ge=2, description="images of a step")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="method of optimisation")
    learning_rate: float = Field(1e-3, gt=0, description="peak of the one-cycle schedule")
    weight_decay: float = Field(0.05, ge=0, description="of weights; biases and norms have none")
    crop_scale: float = Field(0.5, gt=0, le=1, description="least share of the image in a crop")
    vertical_flip: bool = Field(False, description="flip images upside down as well")
    occlusion: float = Field(
        0.5, ge=0, le=1, description="share of the images that are partly blacked out in training"
    )
    seed: Seed = Field(0, description="seed of the weights and of the images' order")


class Backbone(Section):
    """A frozen classifier: its architecture and where its weights come from."""

    model: str = Field(
        description="a timm model name, with or without a pretrained tag; torchvision/NAME; "
        "open_clip/NAME.TAG; a folder of a Hugging Face image classifier or of open_clip; or "
        "package.module:function, which the environment variable TTAME_TRUST must name "
        "(docs/security.md)"
    )
    name: Name = Field(
        "", description="name in the lake; default: the model's name", validate_default=False
    )
    pretrained: bool = Field(False, description="take the model's published weights")
    checkpoint: str | None = Field(
        None, description="file of the weights: safetensors, or a state dict of PyTorch"
    )
    fit: Fit | None = Field(
        None, description="train the classifier on the data set; `{}`: with the defaults"
    )
    outputs: Literal["softmax", "sigmoid", "binary"] | None = Field(
        None,
        description="softmax: one class excludes the others; sigmoid: it does not; binary: one "
        "logit; default: what the model's outputs and its configuration tell, else softmax",
    )
    num_classes: int | None = Field(
        None, ge=2, description="number of classes; default: as the model or its weights say"
    )
    class_names: list[str] | str | None = Field(
        None,
        description="names of its classes in the order of its outputs: a list, a file (a name a "
        "line, or JSON), or a list of timm such as imagenet-1k; default: as the model says",
    )
    labels: Labels = Field(
        default_factory=dict,
        description="class of the classifier (name, wnid or number) by class of the data set: "
        "{kangaroo: wallaby}; it goes before `dataset.labels`",
    )
    args: dict[str, Any] = Field(default_factory=dict, description="arguments of the model")
    prompts: dict[str, str | list[str]] | list[str] | None = Field(
        None,
        description="classes of a model of images and texts, such as CLIP: a text or several for "
        "each, or names alone for `template`",
    )
    template: str = Field(TEMPLATE, description="text of a class that has a name alone")
    taps: list[int | str] | None = Field(
        None,
        description="layers whose features are read, as indices into the model's feature_info or "
        "names of modules; default: the last 3; []: none, the model is a black box with logits",
    )
    head: str | None = Field(
        None, description="safetensors of a trained T-TAME head, in place of training one"
    )
    preprocessing: Preprocessing = Field(
        Preprocessing(), description="what differs from the model's own preprocessing"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"model": value, "pretrained": True}
        if isinstance(value, dict) and isinstance(value.get("model"), str):
            model = re.sub(r"^[~./].*/(?=.)", "", value["model"])  # the last part of a path
            value = {"name": re.sub(r"[^A-Za-z0-9._+-]+", "-", model), **value}
            weights = value.get("pretrained")
            if isinstance(weights, str) and weights.lower() not in ("true", "false"):
                raise ValueError(
                    "`pretrained` is true or false; weights are named after a dot in the model's "
                    f"name: `{value['model'].partition('.')[0]}.{weights}`"
                )
        return value

    @property
    def texts(self) -> dict[str, list[str]]:
        """The texts (prompts) that describe each class, by class name; for models such as CLIP."""
        given = self.prompts or {}
        if isinstance(given, list):
            return {name: [self.template.replace("{}", name)] for name in given}
        return {name: [text] if isinstance(text, str) else text for name, text in given.items()}

    @property
    def library(self) -> str:
        """Where the model comes from: timm, torchvision, open_clip, huggingface or factory.

        A factory is a function in the user's own code, `package.module:function`.
        """
        if re.fullmatch(r"[\w.]+:[\w.]+", self.model):
            return "factory"
        if of := re.match(r"(torchvision|open_clip)/", self.model):
            return of[1]
        return "huggingface" if is_folder(self.model) else "timm"

    @property
    def trusted(self) -> bool:
        """Say whether the user lets the function or the folder that `model` names run its code."""
        module = self.model.partition(":")[0] if self.library == "factory" else self.model
        return is_trusted(self.model) or is_trusted(module)

    @property
    def runs_code(self) -> bool:
        """Say whether loading the model runs code that comes with it, where the user allows it."""
        return self.library == "factory" or self.trusted

    @property
    def has_weights(self) -> bool:
        """Say whether the model has weights without a training.

        The spec names them, or the model's folder or function brings them along.
        """
        given = self.pretrained or bool(self.checkpoint)
        return given or self.library in ("huggingface", "factory")

    @model_validator(mode="after")
    def _check_weights(self) -> Backbone:
        if not (self.has_weights or self.fit):
            raise ValueError(
                f"backbone {self.name} has no weights: give it `pretrained: true`, "
                "`checkpoint: FILE` or `fit: {…}`"
            )
        if self.prompts is not None or self.library == "open_clip":
            self._check_prompts()
        if self.pretrained and self.checkpoint:
            raise ValueError(
                f"backbone {self.name} has both `pretrained` and `checkpoint`: leave one out"
            )
        return self

    def _check_prompts(self) -> None:
        if self.prompts is None:
            raise ValueError(
                f"backbone {self.name} is a model of images and texts: name its classes by "
                "`prompts`"
            )
        own = self.checkpoint and self.library == "huggingface"
        if self.library not in ("huggingface", "open_clip") or self.fit or own or self.num_classes:
            raise ValueError(
                f"backbone {self.name} has `prompts`, which are for a model of images and texts "
                "(a folder, or open_clip/NAME): leave out `fit` and `num_classes`, and for a "
                "folder `checkpoint`"
            )
        if isinstance(self.prompts, list) and "{}" not in self.template:
            raise ValueError(
                f"`template` must hold {{}} for the name of the class: {self.template}"
            )
        if self.template != TEMPLATE and not isinstance(self.prompts, list):
            raise ValueError(
                f"`template` of backbone {self.name} is for a list of names in `prompts`, which "
                "give the whole texts here: leave it out"
            )
        names = Counter(unicodedata.normalize("NFC", name.strip()) for name in self.prompts)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(
                f"`prompts` of backbone {self.name} has two classes {twice[0]!r}: give each a name "
                "of its own, and a text"
            )
        texts = [text for texts in self.texts.values() for text in texts or [""]]
        if len(names) < 2 or not all(map(str.strip, [*names, *texts])):
            raise ValueError(
                f"`prompts` of backbone {self.name} must give two classes or more, each with a "
                "name and a text"
            )
