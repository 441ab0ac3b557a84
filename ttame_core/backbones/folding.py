"""Batch norms of a frozen network, folded into the convolutions before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv2d, Conv2dSame)  # exactly these: others change their weights as they run
NORMS = (nn.BatchNorm2d, BatchNormAct2d)
TOLERANCE = 1e-4  # of the largest value


def fold_batch_norms(
    model: nn.Module, inputs: Tensor, outputs: Callable[[], list[Tensor]], keep: Collection[str]
) -> int:
    """Fold, in place, each batch norm that is applied to nothing but a convolution's output.

    inputs: an example. outputs: what must stay the same to 1e-4 of its largest value, or all is
    put back. keep: convolutions whose own output is wanted. Returns how many were folded. Saves
    the norm in each forward pass, and its much dearer backward pass with respect to the input.
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
    """Name convolutions and the batch norms that take their outputs, where both are used once."""
    made_by: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept, so that its id is its own
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
    """Return what a batch norm does besides normalising: dropout and activation, or nothing."""
    return nn.Sequential(norm.drop, norm.act) if type(norm) is BatchNormAct2d else nn.Identity()


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * b.abs().max())
