"""Classifiers made of words: CLIP, SigLIP and their like, with a prompt for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttame_core import spec
from ttame_core.errors import UserError


class ZeroShot(nn.Module):
    """The image side of a model of images and texts, with the embedding of a prompt for each class.

    A logit is the model's own score of an image and a prompt: the cosine of their embeddings,
    scaled, and shifted where the model has a bias.

    Attributes:
        model: the model, without its text side.
        embeddings: (K, D) float32 of unit length, a row per class.

    Args:
        model: model of the package transformers, with a method `get_image_features`.
        embeddings: (K, D) float32 of unit length.
    """

    embeddings: Tensor

    def __init__(self, model: nn.Module, embeddings: Tensor) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        # SigLIP asks of each text alone whether it fits; CLIP asks which text fits best.
        self.own_outputs = "sigmoid" if hasattr(model, "logit_bias") else "softmax"
        self.register_buffer("embeddings", embeddings)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, 3, H, W)."""
        features = _pooled(self.model.get_image_features(pixel_values=images))  # type: ignore[operator]
        features = nn.functional.normalize(features, dim=1)
        logits = features @ self.embeddings.T * self.model.logit_scale.exp()  # type: ignore[operator]
        return logits + getattr(self.model, "logit_bias", 0.0)


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
        "trust_remote_code": settings.trust,
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
    rows = [_embedding(model, tokenizer, texts) for texts in settings.texts.values()]
    for side in ("text_model", "text_projection"):
        if hasattr(model, side):
            setattr(model, side, None)  # its work is done
    model.config.id2label = dict(enumerate(settings.texts))
    return ZeroShot(model, torch.stack(rows))


@torch.no_grad()
def _embedding(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Return the mean embedding (D,), of unit length, of the texts of a class."""
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    wanted = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
    rows = nn.functional.normalize(_pooled(model.get_text_features(**wanted)), dim=1)
    return nn.functional.normalize(rows.mean(dim=0), dim=0)


def _pooled(features: Any) -> Tensor:
    """Return the embeddings (B, D), which newer versions of transformers put into a record."""
    return features if isinstance(features, Tensor) else features.pooler_output
