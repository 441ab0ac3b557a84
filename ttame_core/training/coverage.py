"""The architectures of timm that can be explained, and their taps."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional, init
from torch.overrides import TorchFunctionMode

from ttame_core import spec
from ttame_core.backbones import Backbone, Preprocessing, Tap
from ttame_core.backbones.taps import capture, map_size, resolve_taps
from ttame_core.errors import UserError, nearest
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.attention import AttentionHead
from ttame_core.training.first_pass import first_pass
from ttame_core.training.head import training_losses

MIXED = 1.05  # with a smaller ratio of the largest change to the mean, all of a map has changed
QUARTERS = ("upper left", "upper right", "lower left", "lower right")
UPPER_RIGHT = 1
CLASSES = 1000  # number of classes for encoders without a classifier


@dataclass(frozen=True)
class Coverage:
    """Taps, maps and head of an architecture by its defaults.

    Attributes:
        model: name of the architecture.
        input_size: (height, width) of the image, in pixels.
        taps: taps of the head.
        map_size: (height, width) of the maps, in pixels.
        parameters: number of the classifier's parameters.
        head_parameters: number of the head's parameters.
    """

    model: str
    input_size: tuple[int, int]
    taps: tuple[Tap, ...]
    map_size: tuple[int, int]
    parameters: int
    head_parameters: int


def find_architectures(pattern: str = "*") -> list[str]:
    """List architectures of timm by name or wildcard.

    Raises:
        UserError: there is no such architecture.
    """
    architectures = timm.list_models(pattern)
    if not architectures:
        raise UserError(
            f"timm has no architecture {pattern}." + nearest(pattern, timm.list_models())
        )
    return architectures


def describe(model: str) -> Coverage:
    """Return taps, maps and head of an architecture, from shapes alone, without computing.

    Raises:
        UserError: the architecture cannot be explained.
    """
    with torch.device("meta"), _ShapesAlone():
        network = _network(model).eval()
        shape = resolve_model_data_config(network)["input_size"]
        taps, classes = resolve_taps(network, model, shape, None)
        maps = map_size([(tap.height, tap.width) for tap in taps])
        head = AttentionHead([tap.channels for tap in taps], classes, maps)
    return Coverage(model, tuple(shape[1:]), taps, maps, _count(network), _count(head))


class _ShapesAlone(TorchFunctionMode):
    """A context that skips functions that change no shape.

    `meta` tensors, which have shapes and no values, would spend time on them.
    """

    LEFT_OUT = frozenset(
        {
            *(Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.clamp_),
            *(Tensor.fill_, Tensor.zero_, Tensor.mul_, Tensor.add_),
            *(init.trunc_normal_, init.normal_, init.uniform_, init.kaiming_uniform_),
            *(init.kaiming_normal_, init.constant_),
            *(functional.batch_norm, functional.layer_norm, functional.group_norm),
            *(functional.relu, functional.gelu, functional.silu, functional.hardswish),
            *(functional.dropout, functional.sigmoid, torch.sigmoid, Tensor.sigmoid),
            *(functional.hardtanh, functional.relu6, functional.hardsigmoid),
            *(functional.normalize, functional.rms_norm),
            *(functional.softmax, torch.softmax, Tensor.softmax),
        }
    )
    ARITHMETIC = frozenset(
        {Tensor.add, Tensor.__add__, Tensor.__iadd__, Tensor.mul, Tensor.__mul__, Tensor.__rmul__}
    )

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in self.LEFT_OUT:
            return next(iter((*args, *(kwargs or {}).values())))
        if function in self.ARITHMETIC and _alike(*args):
            return args[0]
        if function is functional.linear and len(args) > 1:
            return args[0].new_empty(*args[0].shape[:-1], len(args[1]))
        if function is functional.scaled_dot_product_attention:
            return args[0].new_empty(*args[0].shape[:-1], args[2].shape[-1])
        if function is torch.lstm:  # `meta` tensors would run it step by step
            inputs, states, directions = args[0], args[1], 1 + args[7]
            width = states[0].shape[-1] * directions
            return (inputs.new_empty(*inputs.shape[:-1], width), *states)
        return function(*args, **(kwargs or {}))


def _alike(one: Any, other: Any) -> bool:
    """Say whether the sum and the product of two operands have shape and type of the first."""
    if not isinstance(one, Tensor) or not one.is_meta or not one.is_floating_point():
        return False
    if isinstance(other, Tensor):
        pairs = zip(reversed(one.shape), reversed(other.shape), strict=False)
        spread = other.ndim <= one.ndim and all(b in (a, 1) for a, b in pairs)
        return spread and other.dtype == one.dtype
    return isinstance(other, int | float)


def _network(model: str, **arguments: Any) -> nn.Module:
    """Create a network with its own number of classes; for encoders without classes, with 1000."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: Any = timm.create_model(model, **arguments)
        if network.num_classes < 1:
            network = timm.create_model(model, num_classes=CLASSES, **arguments)
    if network.num_classes < 1:
        raise UserError(f"{model} is no classifier and cannot be given classes")
    return network


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def random_backbone(
    model: str, input_size: tuple[int, int] | None = None, **arguments: Any
) -> Backbone:
    """Create a backbone with random weights, on the CPU.

    Args:
        model: name of the architecture.
        input_size: (height, width) of the images; None for the architecture's own.
        **arguments: arguments of the architecture, such as its depth.

    Raises:
        UserError: the architecture cannot take images of this size.
    """
    torch.manual_seed(0)
    network = _network(model, **arguments)
    config = resolve_model_data_config(network)
    if input_size is None:
        return Backbone(network, model, Preprocessing.from_config(config))
    preprocessing = Preprocessing.from_config({**config, "input_size": (3, *input_size)})
    try:
        return Backbone(network, model, preprocessing)
    except UserError:  # networks for a fixed size take it as an argument
        try:
            network = _network(model, **{**arguments, "img_size": input_size})
        except (TypeError, AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"{model} takes no images of {input_size[0]}×{input_size[1]}: {error}"
            ) from error
        return Backbone(network, model, preprocessing)


def check(backbone: Backbone) -> None:
    """Run a training step and an explanation, and check that feature maps are maps of the image.

    Raises:
        UserError: a part of the head gets no gradient, maps are not finite, or a feature map is no
            map of the image.
    """
    head = AttentionHead(
        [tap.channels for tap in backbone.taps], backbone.num_classes, backbone.map_size
    )
    image = torch.rand(1, *backbone.preprocessing.shape, generator=torch.Generator().manual_seed(0))
    explainer = TTame(backbone)
    whole = first_pass(explainer, image)
    training_losses(explainer, head, whole, spec.Training()).loss.backward()
    gradients = [p.grad for p in head.parameters()]
    if any(g is None or not g.isfinite().all() for g in gradients):
        raise UserError(
            f"in a training step on {backbone.name}, a part of the head gets no gradient"
        )
    changed = _with_a_changed_corner(image)
    with torch.inference_mode():
        logits, features = backbone.features(backbone.normalise(changed))
        maps = head.eval().fold()(features, logits.argmax(dim=1))
    if maps.shape != (len(changed), 1, *backbone.map_size) or not maps.isfinite().all():
        raise UserError(
            f"the maps of {backbone.name} have the shape {tuple(maps.shape)} instead of "
            f"{(len(changed), 1, *backbone.map_size)}, or numbers that are not finite"
        )
    _check_places(backbone, image, changed, whole.features[0] - features[0])


def _with_a_changed_corner(image: Tensor) -> Tensor:
    """Return an image (1, 3, H, W) with its upper right corner inverted."""
    height, width = (side // 4 for side in image.shape[-2:])
    changed = image.clone()
    changed[..., :height, -width:] = 1 - changed[..., :height, -width:]
    return changed


def _check_places(backbone: Backbone, image: Tensor, changed: Tensor, difference: Tensor) -> None:
    """Check that a change of the image's upper right corner changes the shallowest tap most there.

    In a map that is turned, transposed or mirrored, another corner changes most. Where random
    weights have mixed all positions before the tap, the network's first stage is checked.

    Raises:
        UserError: another corner changes most.
    """
    for tap, moves in _differences(backbone, image, changed, difference):
        name = tap.name
        moved = moves.abs().sum(dim=1, keepdim=True)
        quarters = functional.adaptive_avg_pool2d(moved, 2).flatten()
        quarter = int(quarters.argmax())
        if quarter == UPPER_RIGHT:
            return
        if quarters.max() > MIXED * quarters.mean():
            break
    raise UserError(
        f"the output of {name} of {backbone.name} is no map of the image: a change of the image's "
        f"upper right corner changes the {QUARTERS[quarter]} quarter of the output most"
    )


def _differences(
    backbone: Backbone, image: Tensor, changed: Tensor, difference: Tensor
) -> Iterator[tuple[Tap, Tensor]]:
    """Yield two taps with the change of their features between two images, (1, C, h, w).

    The first is the shallowest tap, whose change is given; the second is the network's first stage.
    """
    yield backbone.taps[0], difference
    shape = backbone.preprocessing.shape
    (first,), _ = resolve_taps(backbone.model, backbone.name, shape, [0])
    with torch.inference_mode():
        both = backbone.normalise(torch.cat([image, changed]))
        _, (maps,) = capture(backbone.model, [first], both)
    yield first, maps[:1] - maps[1:]
