"""A frozen classifier with its preprocessing and its feature taps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from ttame_core import spec
from ttame_core.attention import map_size
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.backbones.taps import Tap, capture, resolve_taps
from ttame_core.errors import UserError, nearest


class Backbone(nn.Module):
    """A classifier that never changes: evaluation mode, no gradients for its weights.

    Takes normalised images (B, 3, H, W) float32; `normalise` makes them from images in [0, 1].
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        preprocessing: Preprocessing,
        taps: Sequence[int | str] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.preprocessing = preprocessing
        self.taps: tuple[Tap, ...] = resolve_taps(model, name, preprocessing.input_size, taps)
        self.num_classes: int = model.num_classes
        self.map_size = map_size([(tap.height, tap.width) for tap in self.taps])

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: batch-norm statistics and dropout never move."""
        return self

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def masking(self) -> str:
        """Where T-TAME masks images of this family in training: `raw` or `normalised`."""
        return "raw" if self.taps[-1].layout == "NCHW" else "normalised"

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to the network's input."""
        return self.preprocessing.normalise(images)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to logits (B, K)."""
        return self.model(inputs)

    def features(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K) and the feature maps (B, C, h, w) of each tap, in one forward pass."""
        return capture(self.model, self.taps, inputs)


def load_backbone(
    settings: spec.Backbone, checkpoint: str | None = None, num_classes: int | None = None
) -> Backbone:
    """The frozen classifier that `settings` describes, on the CPU.

    checkpoint, num_classes: of a classifier that `fit` has trained, in place of the settings' own.
    Raises UserError for an unknown model, weights that cannot be had, and a checkpoint of another
    architecture.
    """
    model = create_model(settings, checkpoint or settings.checkpoint, num_classes)
    return Backbone(model, settings.name, preprocessing_of(settings, model), settings.taps)


def create_model(
    settings: spec.Backbone, checkpoint: str | None = None, num_classes: int | None = None
) -> nn.Module:
    """A timm model with the weights of `checkpoint`, else pretrained ones where asked for."""
    _check_name(settings.model)
    state = _read_checkpoint(checkpoint) if checkpoint else None
    classes = num_classes or settings.num_classes or _classes_of(settings.model, state)
    arguments = dict(settings.args) | ({"num_classes": classes} if classes else {})
    try:
        model = timm.create_model(
            settings.model, pretrained=settings.pretrained and state is None, **arguments
        )
    except TypeError as error:
        raise UserError(f"backbone {settings.name}: wrong `args` for its model: {error}") from error
    except Exception as error:
        if not settings.pretrained or state is not None:
            raise
        raise UserError(
            f"backbone {settings.name}: the pretrained weights of {settings.model} cannot be had "
            f"({' '.join(str(error).split())[:200]}); go online once, fill the hub cache "
            "(HF_HOME), or give a local `checkpoint`"
        ) from error
    _check_classes(settings, model, state)
    if state is not None:
        _load(model, state, settings, str(checkpoint))
    return model


def preprocessing_of(settings: spec.Backbone, model: nn.Module) -> Preprocessing:
    """The model's own preprocessing, with what the spec overrides."""
    config = dict(resolve_model_data_config(model))
    overrides = settings.preprocessing.model_dump(exclude_none=True)
    size = overrides.pop("input_size", None) or settings.args.get("img_size")
    if size is not None:
        config["input_size"] = (3, size, size) if isinstance(size, int) else (3, *size)
    return Preprocessing.from_config({**config, **overrides})


def file_hash(path: str) -> str:
    """SHA-256 of a file, kept for as long as its size and time stay the same."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_hash(path: str, size: int, mtime: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_name(model: str) -> None:
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise UserError(
            f"unknown model {model}: timm has no such architecture."
            + nearest(architecture, timm.list_models())
        )
    tags = [m.partition(".")[2] for m in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise UserError(
            f"{architecture} has no pretrained weights called {tag}; there are: "
            + (", ".join(tags) or "none")
        )


def _read_checkpoint(path: str) -> dict[str, Tensor]:
    try:
        state = load_state_dict(path, device="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint at {path}") from error
    except Exception as error:  # torch.load raises whatever a broken file leads it to
        if "weights_only" in str(error):  # it refuses what is more than tensors
            raise UserError(
                f"the checkpoint {path} is not a plain file of weights and is not loaded: save it "
                "as safetensors or as a state dict"
            ) from error
        raise UserError(f"cannot read the checkpoint {path}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"the checkpoint {path} holds no state dict")
    return state


def _classes_of(model: str, state: dict[str, Tensor] | None) -> int | None:
    """Number of classes, read off the checkpoint's classifier layer."""
    config = timm.models.get_pretrained_cfg(model)
    classifier = config.classifier if config else None
    if state is None or not isinstance(classifier, str):
        return None
    weight = state.get(f"{classifier}.weight")
    return len(weight) if weight is not None else None


def _check_classes(settings: spec.Backbone, model: Any, state: dict[str, Tensor] | None) -> None:
    if model.num_classes < 1:
        raise UserError(f"{settings.model} is no classifier: it has no classes to explain")
    if not settings.pretrained or state is not None or settings.fit:
        return
    own = model.pretrained_cfg.get("num_classes")
    if own != model.num_classes:
        raise UserError(
            f"backbone {settings.name}: the pretrained {settings.model} has {own} classes; with "
            f"num_classes {model.num_classes} its classifier would be random. Leave num_classes "
            "out, or train it with `fit: {}`"
        )


def _load(
    model: nn.Module, state: dict[str, Tensor], settings: spec.Backbone, checkpoint: str
) -> None:
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    shapes = [k for k in sorted(own.keys() & state.keys()) if own[k].shape != state[k].shape]
    if missing or unknown or shapes:
        examples = [f"{k} is missing" for k in missing[:1]]
        examples += [f"{k} is not in the model" for k in unknown[:1]]
        examples += [
            f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in shapes[:1]
        ]
        raise UserError(
            f"the checkpoint {checkpoint} is of another architecture than {settings.model} "
            f"(backbone {settings.name}): {'; '.join(examples)} "
            f"({len(missing) + len(unknown) + len(shapes)} differences); check `model`, `args` "
            "and `num_classes`"
        )
    model.load_state_dict(state)
