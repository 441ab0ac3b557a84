"""Feature taps: where the head reads a backbone, and the adapter that makes them (B, C, h, w)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttame_core.errors import UserError, nearest

TAPS = 3  # T-TAME's number of feature map sets


@dataclass(frozen=True)
class Tap:
    """One place in a backbone.

    module: dotted name. layout: how its output lies, `NCHW`, `NHWC` or `tokens` (B, N, D) with
    `prefix` tokens (class, distillation, registers) in front. Sizes are those of the feature map.
    """

    module: str
    layout: str
    channels: int
    height: int
    width: int
    prefix: int = 0

    def feature_map(self, output: Tensor) -> Tensor:
        """The module's output as (B, C, h, w): the feature map adapter (T-TAME, section III-B)."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.prefix :].transpose(1, 2)
        return patches.unflatten(2, (self.height, self.width))


def capture(model: nn.Module, taps: Sequence[Tap], inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """One ordinary forward pass: its output, and the feature map of each tap."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: outputs.__setitem__(name, output)

    with ExitStack() as hooks:
        for tap in taps:
            module = model.get_submodule(tap.module)
            hooks.callback(module.register_forward_hook(keep(tap.module)).remove)
        logits = model(inputs)
    return logits, [tap.feature_map(outputs[tap.module]) for tap in taps]


def resolve_taps(
    model: nn.Module, name: str, input_size: tuple[int, int], chosen: Sequence[int | str] | None
) -> tuple[Tap, ...]:
    """Taps of a timm model, from shallow to deep.

    chosen: indices into the model's feature_info or module names; None for the last three of
    feature_info, which are the last three stages of a hierarchical network and the last three
    blocks of an isotropic one. Raises UserError for a place the model does not have, or whose
    output is no feature map.
    """
    stages = _stages(model)
    if chosen is None:
        chosen = list(range(-min(TAPS, len(stages)), 0))
    modules = [_module_name(model, name, stages, choice) for choice in chosen]
    shapes = _probe(model, name, modules, input_size)
    return tuple(_describe(model, name, m, shapes[m], input_size) for m in modules)


def _stages(model: nn.Module) -> list[dict[str, Any]]:
    info = getattr(model, "feature_info", None) or []
    return list(getattr(info, "info", info))


def _module_name(
    model: nn.Module, name: str, stages: Sequence[dict[str, Any]], choice: int | str
) -> str:
    if isinstance(choice, int):
        if not -len(stages) <= choice < len(stages):
            raise UserError(
                f"backbone {name} has no tap {choice}: it has {len(stages)} stages or blocks, "
                f"0 to {len(stages) - 1}, or name a module in `taps`"
            )
        return stages[choice]["module"]
    known = dict(model.named_modules())
    if choice not in known:
        raise UserError(f"backbone {name} has no module {choice}.{nearest(choice, known)}")
    return choice


def _probe(
    model: nn.Module, name: str, modules: Sequence[str], input_size: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Output shapes of `modules` for one blank image."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(module_name: str) -> Any:
        return lambda module, args, output: shapes.__setitem__(module_name, tuple(output.shape))

    with ExitStack() as hooks, torch.no_grad():
        for module in modules:
            hook = model.get_submodule(module).register_forward_hook(note(module))
            hooks.callback(hook.remove)
        device = next(model.parameters()).device
        try:
            model(torch.zeros(1, 3, *input_size, device=device))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"backbone {name} cannot take images of {input_size[0]}×{input_size[1]}: {error}; "
                "set preprocessing.input_size, or args.img_size for models of a fixed size"
            ) from error
    return shapes


def _describe(
    model: nn.Module,
    name: str,
    module: str,
    shape: tuple[int, ...] | None,
    input_size: tuple[int, int],
) -> Tap:
    aspect = input_size[0] / input_size[1]
    channels = next((s["num_chs"] for s in _stages(model) if s["module"] == module), None)
    if shape is not None and len(shape) == 4:
        channels_last = (
            str(getattr(model, "output_fmt", "NCHW")).endswith("NHWC")
            if channels is None or shape[1] == shape[3]
            else shape[3] == channels
        )
        if channels_last:
            return Tap(module, "NHWC", shape[3], shape[1], shape[2])
        return Tap(module, "NCHW", *shape[1:])
    if shape is not None and len(shape) == 3:
        for prefix in (getattr(model, "num_prefix_tokens", 0), 0, 1, 2):  # some add them late
            height, width = _grid(shape[1] - prefix, aspect)
            if height * width == shape[1] - prefix:
                return Tap(module, "tokens", shape[2], height, width, prefix)
    raise UserError(
        f"module {module} of backbone {name} gives {shape or 'no tensor'}, which is no feature "
        "map: choose other `taps`"
    )


def _grid(patches: int, aspect: float) -> tuple[int, int]:
    """Height and width of the token grid, in the input's aspect."""
    height = max(1, round((patches * aspect) ** 0.5))
    return height, patches // height
