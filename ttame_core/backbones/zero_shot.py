"""Classifiers made of words: CLIP, SigLIP and their like, with a prompt for each class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ttame_core import spec
from ttame_core.backbones.processors import preparation
from ttame_core.errors import UserError


class ZeroShot(nn.Module):
    """The image side of a model of images and texts, with the embedding of a prompt for each class.

    A logit is the model's own score of an image and a prompt: the cosine of their embeddings,
    scaled, and shifted where the model has a bias.

    Attributes:
        model: the model, without its text side.
        embeddings: (K, D) float32 of unit length, a row per class.

    Args:
        model: model as those of the package transformers: with a method `get_image_features`, a
            `logit_scale` and, for SigLIP, a `logit_bias`.
        classes: embedding (D,) float32, of unit length, of each class, by its name.
    """

    embeddings: Tensor
    pretrained_cfg: dict[str, Any]

    def __init__(self, model: nn.Module, classes: dict[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self.config = SimpleNamespace(id2label=dict(enumerate(classes)))
        # SigLIP asks of each text alone whether it fits; CLIP asks which text fits best.
        self.own_outputs = "softmax" if _bias(model) is None else "sigmoid"
        self.register_buffer("embeddings", torch.stack([*classes.values()]))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, 3, H, W)."""
        features = _pooled(self.model.get_image_features(pixel_values=images))  # type: ignore[operator]
        features = nn.functional.normalize(features, dim=1)
        logits = features @ self.embeddings.T * self.model.logit_scale.exp()  # type: ignore[operator]
        bias = _bias(self.model)
        return logits if bias is None else logits + bias


def zero_shot(settings: spec.Backbone, folder: Path) -> ZeroShot:
    """Load a model of images and texts, and make a classifier of the spec's prompts.

    Args:
        settings: the section of the spec, with `prompts`.
        folder: as `save_pretrained` of the model and of its processor or tokenizer writes it.

    Raises:
        UserError: the folder holds no such model, or no tokenizer.
    """
    from transformers import AutoModel, AutoTokenizer

    about: dict[str, Any] = {
        "local_files_only": True,
        "trust_remote_code": settings.trusted,
    }
    try:
        model = AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **settings.args, **about
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, **about)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, ImportError) as error:
        raise UserError(
            f"backbone {settings.name}: {folder} holds no model of images and texts with a "
            f"tokenizer: {' '.join(str(error).split())[:300]}"
        ) from error
    sides = ("get_image_features", "get_text_features", "logit_scale")
    if not all(hasattr(model, side) for side in sides):
        raise UserError(
            f"backbone {settings.name}: `prompts` are for models of images and texts, such as CLIP "
            f"and SigLIP, and {folder} holds a {type(model).__name__}: leave them out"
        )
    length = model.config.text_config.max_position_embeddings

    def embed(texts: list[str]) -> Tensor:
        tokens = tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        wanted = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
        return _pooled(model.get_text_features(**wanted))

    classifier = classifier_of(settings, model, embed)
    for side in ("text_model", "text_projection"):
        if hasattr(model, side):
            setattr(model, side, None)  # its work is done
    classifier.pretrained_cfg = preparation(
        settings, folder, getattr(model.config, "vision_config", model.config)
    )
    return classifier


@torch.no_grad()
def classifier_of(
    settings: spec.Backbone, model: nn.Module, embed: Callable[[list[str]], Tensor]
) -> ZeroShot:
    """Make a classifier of a model and the prompts of a spec.

    A class of several texts has the mean of their embeddings.

    Args:
        settings: the section of the spec, with `prompts`.
        model: the model, as ZeroShot takes it.
        embed: function that gives embeddings (T, D) of T texts.

    Raises:
        UserError: two classes are the same to the model.
    """
    classes: dict[str, Tensor] = {}
    known: dict[bytes, str] = {}
    for name, texts in settings.texts.items():
        rows = nn.functional.normalize(embed(texts).float(), dim=1)
        classes[name] = nn.functional.normalize(rows.mean(dim=0), dim=0)
        other = known.setdefault(classes[name].numpy().tobytes(), name)
        if other != name:
            raise UserError(
                f"backbone {settings.name}: the prompts of {other} and {name} are the same to the "
                "model, which cuts long texts and may not tell upper from lower case: give one "
                "of them another text"
            )
    return ZeroShot(model, classes)


def _bias(model: nn.Module) -> Tensor | None:
    return getattr(model, "logit_bias", None)


def _pooled(features: Any) -> Tensor:
    """Return the embeddings (B, D), which newer versions of transformers put into a record."""
    return features if isinstance(features, Tensor) else features.pooler_output
