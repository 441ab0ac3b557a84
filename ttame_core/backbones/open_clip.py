"""Models of images and texts of open_clip, by their names or from folders, as classifiers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ttame_core import spec
from ttame_core.backbones.checkpoints import load_weights
from ttame_core.backbones.zero_shot import ZeroShot, classifier_of
from ttame_core.errors import UserError, nearest

CONFIGURATION = "open_clip_config.json"
PREFIX = "open_clip/"
QUICK = "-quickgelu"  # in the names of networks whose activation is QuickGELU
MANY = 8  # names of weights that a sentence lists, at most
CROPS = {"shortest": "center", "squash": "squash"}  # timm's words for open_clip's ways to resize


class ImageSide(nn.Module):
    """The image side of a model, with what makes logits of its embeddings.

    Args:
        model: model of open_clip.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.visual
        self.logit_scale = model.logit_scale
        self.logit_bias = model.logit_bias

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return embeddings (B, D) of normalised images (B, 3, H, W)."""
        features = self.visual(pixel_values)
        return features[0] if isinstance(features, tuple) else features  # CoCa gives tokens as well


def open_clip_classifier(settings: spec.Backbone, state: dict[str, Tensor] | None) -> ZeroShot:
    """Load a model of images and texts, and make a classifier of the spec's prompts.

    Args:
        settings: the section of the spec. Its model is `open_clip/NAME.TAG`, or a folder as
            open_clip publishes models: with open_clip_config.json, weights, and a tokenizer where
            it is not the library's own.
        state: state dict of a checkpoint; None for the published weights or those of the folder.

    Raises:
        UserError: the package is missing, there is no such model, or its weights are not its own.
        Exception: whatever the library raises where it cannot load the model.
    """
    try:
        import open_clip
    except ImportError as error:
        raise UserError(
            f"backbone {settings.name} is a model of open_clip, for which the package "
            "`open_clip_torch` is needed: pip install 'ttame[open-clip]'"
        ) from error
    if settings.args:
        raise UserError(
            f"backbone {settings.name}: a model of open_clip takes no `args`: name the variant, "
            "such as ViT-B-32-256 or ViT-B-32-quickgelu"
        )
    if settings.prompts is None:
        raise UserError(
            f"backbone {settings.name} is a model of images and texts: name its classes by "
            "`prompts`"
        )
    if settings.library == "open_clip":
        place, _, tag = settings.model.removeprefix(PREFIX).partition(".")
        _check(settings, place, tag)
        pretrained = tag if settings.pretrained else None
    else:
        place, pretrained = f"local-dir:{Path(settings.model).expanduser()}", None
    text = (open_clip.get_model_config(place) or {}).get("text_cfg", {})
    if "hf_model_name" in text and settings.library != "open_clip" and not settings.trusted:
        raise UserError(
            f"backbone {settings.name}: transformers makes the text side of {settings.model} from "
            f"{text['hf_model_name']}, which may have code of its own: if you trust it name the "
            f"folder in the environment variable {spec.TRUSTED}"
        )
    with _without_messages():
        model = open_clip.create_model(
            place, pretrained=pretrained, pretrained_text=False, require_pretrained=state is None
        ).eval()
    if state is not None:
        load_weights(model, state, settings, str(settings.checkpoint))
    # Code of a tokenizer in a folder runs only where the user trusts it, whatever the folder says.
    trust = {"trust_remote_code": settings.trusted} if text.get("hf_tokenizer_name") else {}
    tokenizer = open_clip.get_tokenizer(place, **trust)

    def embed(texts: list[str]) -> Tensor:
        return model.encode_text(tokenizer(texts))

    classifier = classifier_of(settings, ImageSide(model), embed)
    classifier.pretrained_cfg = _preparation(settings, model)
    return classifier


def _check(settings: spec.Backbone, name: str, tag: str) -> None:
    """Check the name of a network and, for published weights, that of the weights.

    Raises:
        UserError: open_clip has none of this name, or the weights are of another activation.
    """
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        raise UserError(
            f"unknown model {settings.model}: open_clip has no such network." + nearest(name, known)
        )
    if not settings.pretrained:
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        which = f"weights called {tag}" if tag else "weights without a name"
        some = ", ".join(tags[:MANY]) + f" and {len(tags) - MANY} more" * (len(tags) > MANY)
        have = f"it has {some}" if tags else "it has none: give a `checkpoint`"
        raise UserError(
            f"open_clip's {name} has no published {which}: say `model: {PREFIX}{name}.TAG`; {have}."
            + nearest(tag, tags)
        )
    wanted = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
    if wanted != open_clip.get_model_config(name).get("quick_gelu", False):
        other = f"{name}{QUICK}" if wanted else name.removesuffix(QUICK)
        raise UserError(
            f"open_clip's weights {tag} are those of a network with{'' if wanted else 'out'} "
            f"QuickGELU, and {name} would give wrong numbers: say `model: {PREFIX}{other}.{tag}`"
        )


@contextmanager
def _without_messages() -> Iterator[None]:
    """Leave out what open_clip says to the root logger: weights come later, errors are raised."""
    root = logging.getLogger()

    def none(record: logging.LogRecord) -> bool:
        return False

    root.addFilter(none)
    try:
        yield
    finally:
        root.removeFilter(none)


def _preparation(settings: spec.Backbone, model: Any) -> dict[str, Any]:
    """Describe how open_clip prepares pictures, as the keys of `Preprocessing`.

    Raises:
        UserError: open_clip pads pictures, which ttame does in another colour.
    """
    config = model.visual.preprocess_cfg
    if config["resize_mode"] not in CROPS:
        raise UserError(
            f"backbone {settings.name} pads pictures (`resize_mode: {config['resize_mode']}`), in "
            "a colour that ttame does not repeat: such models are not taken"
        )
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    return {
        "input_size": (3, height, width),
        "crop_pct": 1.0,
        "crop_mode": CROPS[config["resize_mode"]],
        "interpolation": "bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        **{key: _each(config[key]) for key in ("mean", "std")},
    }


def _each(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * 3
