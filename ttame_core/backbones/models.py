"""Creation of classifiers from timm, torchvision, Hugging Face folders and users' functions."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ttame_core import spec
from ttame_core.backbones.checkpoints import file_hash, load_weights, read_checkpoint
from ttame_core.backbones.open_clip import CONFIGURATION, open_clip_classifier
from ttame_core.backbones.processors import preparation
from ttame_core.backbones.zero_shot import zero_shot
from ttame_core.errors import UserError, nearest
from ttame_core.imports import library

# Keys that libraries take beside a model's own arguments, and that load files or run code.
WEIGHTS_AND_CODE = {
    "checkpoint_path",
    "code_revision",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "trust_remote_code",
    "use_safetensors",
    "weights_only",
}
# What a Hugging Face folder says of its model and of the pictures that it takes.
CONFIGURATIONS = ("config.json", "preprocessor_config.json", "processor_config.json")
DEFAULT = "DEFAULT"  # torchvision's name for the best weights it has


def create_model(
    settings: spec.Backbone, checkpoint: str | None = None, num_classes: int | None = None
) -> nn.Module:
    """Create a classifier with its weights.

    Models of other libraries get a `pretrained_cfg` as timm's models have, which says how images
    are prepared.

    Args:
        settings: the backbone's section of a spec.
        checkpoint: file of weights; None for the weights that the settings name.
        num_classes: number of classes; None for that of the settings.

    Raises:
        UserError: the model is unknown, its arguments are wrong, its weights cannot be loaded, or
            timm cannot be imported.
    """
    make: Callable[..., nn.Module] = {
        "timm": _timm,
        "torchvision": _torchvision,
        "huggingface": _huggingface,
        "open_clip": _open_clip,
        "factory": _factory,
    }[settings.library]
    state = read_checkpoint(checkpoint) if checkpoint else None
    if hidden := sorted(WEIGHTS_AND_CODE & settings.args.keys()):
        raise UserError(
            f"backbone {settings.name}: `args` cannot hold {hidden[0]}; give weights as "
            f"`checkpoint` beside `model`, and allow a folder's own code by {spec.TRUSTED}"
        )
    library("timm")  # which says how images are prepared, whatever the model's library
    model = make(settings, state, num_classes or settings.num_classes)
    if state is not None and settings.prompts is None:
        load_weights(model, state, settings, str(checkpoint))
    return model


def own_weights(settings: spec.Backbone) -> str:
    """Return a text that identifies the weights that a folder or a function brings along."""
    if settings.library == "huggingface":
        folder = Path(settings.model).expanduser()
        says = [file for file in map(folder.joinpath, CONFIGURATIONS) if file.is_file()]
        weights = [folder / "model.safetensors"]
        if _is_of_open_clip(folder):
            weights = sorted(file for file in folder.iterdir() if file.is_file())
        files = [*weights, *says, *sorted(folder.glob("*.py"))]
        return "sha256:" + "+".join(file_hash(str(file)) for file in files)
    return _factory_weights(settings.model_dump_json(include={"model", "name", "args"}))


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes_of(value))
    return f"sha256:{digest.hexdigest()}"


def _bytes_of(value: Any) -> bytes:
    """Return the content of an entry of a state dict; quantised layers have other than tensors."""
    if isinstance(value, list | tuple):
        return b"".join(map(_bytes_of, value))
    if not isinstance(value, Tensor):
        return repr(value).encode()
    if value.is_quantized:
        value = value.dequantize()
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


@lru_cache(maxsize=64)
def _factory_weights(settings: str) -> str:
    model = _factory(spec.Backbone.model_validate_json(settings), None, None)
    return weights_hash(model)


# ---- timm ----------------------------------------------------------------------------------------


def _timm(
    settings: spec.Backbone, state: dict[str, Tensor] | None, num_classes: int | None
) -> nn.Module:
    import timm

    _check_name(settings.model)
    classes = num_classes or _classes_of(settings.model, state)
    arguments = dict(settings.args) | ({"num_classes": classes} if classes else {})
    try:
        model = timm.create_model(
            settings.model, pretrained=settings.pretrained and state is None, **arguments
        )
    except TypeError as error:
        raise _wrong_arguments(settings, error) from error
    except Exception as error:
        if settings.pretrained and state is None:
            raise _no_weights(settings, error) from error
        if settings.args:  # the error may be about these arguments
            raise _wrong_arguments(settings, error) from error
        raise
    _check_classes(settings, model, state)
    return model


def _check_name(model: str) -> None:
    import timm

    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise UserError(
            f"unknown model {model}: timm has no such architecture."
            + nearest(architecture, timm.list_models())
        )
    tags = [m.partition(".")[2] for m in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        known = f"it has {', '.join(tags)}" if tags else "it has no pretrained weights at all"
        raise UserError(f"{architecture} has no pretrained weights called {tag}; {known}")


def _classes_of(model: str, state: dict[str, Tensor] | None) -> int | None:
    """Return the number of classes in a checkpoint's classifier layer."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(model)
    classifier = config.classifier if config else None
    if state is None or not isinstance(classifier, str):
        return None
    ends = f".{classifier}.weight"  # the names may have a prefix
    weights = [weight for name, weight in state.items() if f".{name}".endswith(ends)]
    return len(weights[0]) if len(weights) == 1 else None


def _check_classes(settings: spec.Backbone, model: Any, state: dict[str, Tensor] | None) -> None:
    if model.num_classes < 1:
        raise UserError(
            f"{settings.model} is no classifier, so it has no classes to explain: give num_classes "
            "and a `checkpoint`, or train it with `fit: {}`"
        )
    if not settings.pretrained or state is not None or settings.fit:
        return
    own = model.pretrained_cfg.get("num_classes")
    if own != model.num_classes:
        raise UserError(
            f"backbone {settings.name}: the pretrained {settings.model} has {own} classes, so that "
            f"with num_classes {model.num_classes} its classifier would be random: leave "
            "num_classes out, or train it with `fit: {}`"
        )


# ---- torchvision ---------------------------------------------------------------------------------


def _torchvision(
    settings: spec.Backbone, state: dict[str, Tensor] | None, num_classes: int | None
) -> nn.Module:
    """Create a model such as `torchvision/resnet50`.

    The name may end in that of the weights, as in `torchvision/resnet50.IMAGENET1K_V1`.
    """
    from torchvision import models

    name, _, tag = settings.model.removeprefix("torchvision/").partition(".")
    known = models.list_models(models)
    if name not in known:
        raise UserError(
            f"unknown model {settings.model}: torchvision has no such classifier."
            + nearest(name, known)
        )
    try:
        weights = models.get_model_weights(name)[tag or DEFAULT]
    except KeyError as error:
        tags = ", ".join(weights.name for weights in models.get_model_weights(name))
        raise UserError(
            f"torchvision's {name} has no weights called {tag}; it has {tags}"
        ) from error
    arguments = dict(settings.args) | ({"num_classes": num_classes} if num_classes else {})
    try:
        model = models.get_model(name, weights=None, **arguments)
    except (TypeError, ValueError) as error:
        raise _wrong_arguments(settings, error) from error
    if settings.pretrained and state is None:
        try:
            pretrained = weights.get_state_dict(check_hash=True, weights_only=True)
        except Exception as error:
            raise _no_weights(settings, error) from error
        _start_from(model, pretrained, settings)
    view = weights.transforms()
    model.pretrained_cfg = _preparation(
        size=(view.crop_size[0],) * 2,
        resize=view.resize_size[0],
        interpolation=view.interpolation.value,
        mean=view.mean,
        std=view.std,
    )
    return model


def _start_from(model: nn.Module, state: dict[str, Tensor], settings: spec.Backbone) -> None:
    """Load pretrained weights, without the classifier's where `fit` trains for other classes."""
    own = model.state_dict()
    if settings.fit is not None:
        state = own | {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    load_weights(model, state, settings, f"of the pretrained {settings.model}")


# ---- Hugging Face --------------------------------------------------------------------------------


def _huggingface(
    settings: spec.Backbone, state: dict[str, Tensor] | None, num_classes: int | None
) -> nn.Module:
    """Load a model from a folder with config.json and model.safetensors (`save_pretrained`)."""
    folder = Path(settings.model).expanduser()
    if _is_of_open_clip(folder):
        return _open_clip(settings, state, num_classes)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"backbone {settings.name}: there is no folder {folder} with a config.json in it, as "
            "`save_pretrained` of Hugging Face transformers writes it"
        )
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise UserError(
            f"backbone {settings.name} is a Hugging Face folder, for which the package "
            "`transformers` is needed: pip install 'ttame[huggingface]'"
        ) from error
    if settings.prompts is not None:
        return zero_shot(settings, folder)
    arguments = dict(settings.args) | ({"num_labels": num_classes} if num_classes else {})
    trust = settings.trusted  # without a value, transformers would ask at the terminal
    try:
        if state is not None or not (folder / "model.safetensors").is_file():
            if state is None and settings.fit is None:
                raise UserError(f"backbone {settings.name}: {folder} has no model.safetensors")
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust, **arguments
            )
            model = AutoModelForImageClassification.from_config(
                config, trust_remote_code=trust, dtype=torch.float32
            )
        else:
            model, loaded = AutoModelForImageClassification.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust,
                ignore_mismatched_sizes=settings.fit is not None,
                output_loading_info=True,
                dtype=torch.float32,  # folders of half precision too
                **arguments,
            )
            if (missing := _missing(loaded)) and settings.fit is None:
                raise UserError(
                    f"backbone {settings.name}: {folder} has no weights for {missing[0]} "
                    f"({len(missing)} are missing), which would be random: give a folder with all "
                    "of them, train it with `fit: {}`, or name the classes of a model of images "
                    "and texts by `prompts`"
                )
    except UserError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        if not trust and "trust_remote_code" in str(error):
            raise UserError(
                f"backbone {settings.name}: {folder} has code of its own, which is not run: read "
                f"it, and if you trust it name the folder in the environment variable "
                f"{spec.TRUSTED}"
            ) from error
        if "ignore_mismatched_sizes" in str(error):
            raise UserError(
                f"backbone {settings.name}: the weights in {folder} are of other sizes than its "
                "config.json says: does `id2label` name all its classes?"
            ) from error
        raise UserError(
            f"backbone {settings.name}: {folder} holds no image classifier that transformers can "
            f"load: {' '.join(str(error).split())[:300]}"
        ) from error
    model.pretrained_cfg = preparation(settings, folder, model.config)
    if model.config.problem_type == "regression":
        raise UserError(
            f"backbone {settings.name}: {folder} holds a model of numbers (`problem_type: "
            "regression` in its config.json), and an audit needs a classifier"
        )
    if model.config.problem_type == "multi_label_classification":
        model.own_outputs = "sigmoid"
    return model


def _missing(loaded: Mapping[str, Any]) -> list[str]:
    """Return the names of weights that a folder lacks, without batch norms' counts of batches."""
    return sorted(k for k in loaded["missing_keys"] if not k.endswith("num_batches_tracked"))


# ---- open_clip -----------------------------------------------------------------------------------


def _is_of_open_clip(folder: Path) -> bool:
    """Say whether a folder holds a model as open_clip publishes it, and none of transformers."""
    theirs = all((folder / name).is_file() for name in ("config.json", "model.safetensors"))
    return (folder / CONFIGURATION).is_file() and not theirs


def _open_clip(
    settings: spec.Backbone, state: dict[str, Tensor] | None, num_classes: int | None
) -> nn.Module:
    """Load a model such as `open_clip/ViT-B-32.laion2b_s34b_b79k`, or a folder of open_clip."""
    try:
        return open_clip_classifier(settings, state)
    except UserError:
        raise
    except Exception as error:  # of the hub, of a tokenizer, of a configuration
        if settings.pretrained:
            raise _no_weights(settings, error) from error
        raise UserError(
            f"backbone {settings.name}: open_clip cannot load {settings.model}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


# ---- a user's function ---------------------------------------------------------------------------


def _factory(
    settings: spec.Backbone, state: dict[str, Tensor] | None, num_classes: int | None
) -> nn.Module:
    """Call `package.module:factory` with `args`, and with num_classes where the spec has it.

    Raises:
        UserError: the user does not trust it, it cannot be imported, or it makes no network.
    """
    module_name, _, attribute = settings.model.partition(":")
    if not settings.trusted:
        raise UserError(
            f"backbone {settings.name} is made by the function {settings.model}, which is not "
            "called: read it, and if you trust it name it in the environment variable "
            f"{spec.TRUSTED}: export {spec.TRUSTED}={settings.model}"
        )
    if (here := os.getcwd()) not in sys.path:  # where users keep such functions
        sys.path.append(here)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"backbone {settings.name}: cannot import {attribute} from {module_name}: {error}"
        ) from error
    arguments = dict(settings.args) | ({"num_classes": num_classes} if num_classes else {})
    try:
        model = factory(**arguments)
    except TypeError as error:
        raise _wrong_arguments(settings, error) from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"backbone {settings.name}: {settings.model} returned a {type(model).__name__}: it "
            "must return a torch.nn.Module"
        )
    return model


# ---- all of them ---------------------------------------------------------------------------------


def _preparation(
    size: tuple[int, int] | None,
    resize: int | None,
    interpolation: str,
    mean: Any,
    std: Any,
) -> dict[str, Any]:
    """Describe preprocessing as timm's configurations do.

    Args:
        size: (height, width) of the network's input, in pixels.
        resize: length of the shorter side before the crop, in pixels; None to squash the picture.
        interpolation: interpolation of the resizing.
        mean: mean of each channel, in [0, 1].
        std: standard deviation of each channel.
    """
    size = size or (224, 224)
    return {
        "input_size": (3, *size),
        "crop_pct": min(size) / resize if resize else 1.0,
        "crop_mode": "center" if resize else "squash",
        "interpolation": interpolation,
        "mean": tuple(mean),
        "std": tuple(std),
    }


def _wrong_arguments(settings: spec.Backbone, error: Exception) -> UserError:
    reason = str(error) or type(error).__name__
    return UserError(f"backbone {settings.name}: wrong `args` for its model: {reason}")


def _no_weights(settings: spec.Backbone, error: Exception) -> UserError:
    return UserError(
        f"backbone {settings.name}: the pretrained weights of {settings.model} cannot be loaded "
        f"({' '.join(str(error).split())[:200]}); go online once, fill the hub cache (HF_HOME, "
        "TORCH_HOME), or give a local `checkpoint`"
    )
