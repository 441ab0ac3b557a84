"""Which of timm's architectures can be explained, and with which taps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from ttame_core import spec
from ttame_core.attention import AttentionHead, map_size
from ttame_core.backbones import Backbone, Preprocessing, Tap
from ttame_core.backbones.taps import resolve_taps
from ttame_core.errors import UserError, nearest
from ttame_core.training import training_losses


@dataclass(frozen=True)
class Coverage:
    """What an architecture's defaults lead to.

    input_size, map_size: (height, width), pixels of the image and of the maps. parameters,
    head_parameters: numbers of the classifier and of its head.
    """

    model: str
    input_size: tuple[int, int]
    taps: tuple[Tap, ...]
    map_size: tuple[int, int]
    parameters: int
    head_parameters: int


def find_architectures(pattern: str = "*") -> list[str]:
    """timm's architectures by name or wildcard. Raises UserError where there is none."""
    found = timm.list_models(pattern)
    if not found:
        raise UserError(
            f"timm has no architecture {pattern}." + nearest(pattern, timm.list_models())
        )
    return found


def describe(model: str) -> Coverage:
    """Taps, maps and head of an architecture, from its shapes alone: nothing is computed.

    Raises UserError where it cannot be explained.
    """
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        network = timm.create_model(model).eval()
        size = resolve_model_data_config(network)["input_size"][1:]
        taps = resolve_taps(network, model, size, None)
        maps = map_size([(tap.height, tap.width) for tap in taps])
        if network.num_classes < 1:
            raise UserError(f"{model} is no classifier: it has no classes to explain")
        head = AttentionHead([tap.channels for tap in taps], network.num_classes, maps)
    return Coverage(model, tuple(size), taps, maps, _count(network), _count(head))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def random_backbone(model: str) -> Backbone:
    """The architecture with random weights, on the CPU, at its own input size."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = timm.create_model(model)
    preprocessing = Preprocessing.from_config(resolve_model_data_config(network))
    return Backbone(network, model, preprocessing)


def check(model: str) -> None:
    """Run a training step and an explanation of the architecture with random weights.

    Raises UserError that says what is wrong with them.
    """
    backbone = random_backbone(model)
    head = AttentionHead(
        [tap.channels for tap in backbone.taps], backbone.num_classes, backbone.map_size
    )
    images = torch.rand(2, 3, *backbone.preprocessing.input_size)
    training_losses(backbone, head, images, spec.Training()).loss.backward()
    gradients = [p.grad for p in head.parameters()]
    if any(g is None or not g.isfinite().all() for g in gradients):
        raise UserError(f"a training step on {model} gives no gradient to every part of the head")
    with torch.inference_mode():
        logits, features = backbone.features(backbone.normalise(images))
        maps = head.eval().fold()(features, logits.argmax(dim=1))
    if maps.shape != (2, 1, *backbone.map_size) or not maps.isfinite().all():
        raise UserError(f"the maps of {model} are {tuple(maps.shape)}, or not finite")
