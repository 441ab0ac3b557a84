"""Folding of a frozen network's batch norms into the convolutions before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv2d, Conv2dSame)  # no subclasses, which may change weights in a pass
NORMS = (nn.BatchNorm2d, BatchNormAct2d)
TOLERANCE = 1e-4  # change of an output that is accepted, as a share of its largest value


def fold_batch_norms(
    model: nn.Module, inputs: Tensor, outputs: Callable[[], list[Tensor]], keep: Collection[str]
) -> int:
    """Fold, in place, each batch norm that is applied to nothing but a convolution's output.

    A folded norm saves its forward pass, and the much longer backward pass to its input.

    Args:
        model: the network, in evaluation mode.
        inputs: example of the network's input, (B, 3, H, W).
        outputs: function that returns outputs of the network; where one changes by more than
            TOLERANCE, all norms are put back.
        keep: names of convolutions whose own output is read, so that they stay as they are.

    Returns:
        The number of folded norms.
    """
    before = outputs()
    replaced: dict[str, Any] = {}
    for conv, norm in _pairs(model, inputs):
        if conv not in keep:
            replaced |= {name: model.get_submodule(name) for name in (conv, norm)}
            model.set_submodule(conv, fuse_conv_bn_eval(replaced[conv], replaced[norm]))
            model.set_submodule(norm, _rest(replaced[norm]))
    model.requires_grad_(False)
    after = outputs()
    if not all(_close(a, b) for a, b in zip(after, before, strict=True)):
        for name, module in replaced.items():
            model.set_submodule(name, module)
        return 0
    return len(replaced) // 2


def _pairs(model: nn.Module, inputs: Tensor) -> list[tuple[str, str]]:
    """Return names of convolutions and of batch norms on their outputs, where both run once."""
    made_by: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no id is used twice
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()

    def made(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            made_by[id(output)] = name, output
            calls[name] += 1

        return hook

    def taken(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor]) -> None:
            calls[name] += 1
            if id(args[0]) in made_by:
                pairs.append((made_by[id(args[0])][0], name))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if type(module) in CONVOLUTIONS:
                hooks.callback(module.register_forward_hook(made(name)).remove)
            elif type(module) in NORMS and module.running_mean is not None:
                hooks.callback(module.register_forward_pre_hook(taken(name)).remove)
        model(inputs)
    once = [pair for pair in pairs if all(calls[name] == 1 for name in pair)]
    norms_of = Counter(conv for conv, _ in once)
    return [(conv, norm) for conv, norm in once if norms_of[conv] == 1]


def _rest(norm: nn.Module) -> nn.Module:
    """Return the module that takes the place of a batch norm after its folding into a convolution.

    timm's batch norms also apply dropout and an activation, which remain; others leave nothing.
    """
    return nn.Sequential(norm.drop, norm.act) if type(norm) is BatchNormAct2d else nn.Identity()


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * b.abs().max())
