"""The vectors by which a classifier itself tells its classes apart."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core.backbones.outputs import logits_of
from ttame_core.backbones.zero_shot import ZeroShot

LENGTH = 2.0  # sum of magnitudes: heads learn with the step sizes that other weights need


class ClassVectors(nn.Module):
    """One vector (D) for each of K classes.

    The first D − 1 numbers are the class's row of `weight` less the mean row, scaled so that the
    sum of their magnitudes is the same for every class (LENGTH). The last number has that value,
    too: its weights learn what all classes share.

    weight: (K, D − 1), the classifier's own, which is not copied.
    """

    weight: Tensor
    mean: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight = weight.detach().float()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("mean", weight.mean(dim=0), persistent=False)

    @property
    def size(self) -> int:
        """D, the length of a vector."""
        return self.weight.shape[1] + 1

    def forward(self, classes: Tensor | None) -> Tensor:
        """Return the vectors (…, D) of classes (…) int64, or (K, D) those of all, for None."""
        rows = (self.weight if classes is None else self.weight[classes]) - self.mean
        return F.pad(LENGTH * F.normalize(rows, p=1, dim=-1), (0, 1), value=LENGTH)


def class_vectors(model: nn.Module, inputs: Tensor, classes: int) -> ClassVectors:
    """Find the class vectors of a model: the rows of the linear layer that gives its logits.

    A classifier of prompts has the embeddings of its texts.

    A model without such a layer (one that averages two classifiers, say) has the unit vectors: with
    them nothing is shared between classes but the last number.

    Args:
        model: a classifier.
        inputs: (1, C, H, W), for one forward pass.
        classes: K.
    """
    if isinstance(model, ZeroShot):
        return ClassVectors(model.embeddings)
    outputs: dict[str, Any] = {}  # of layers with weights, in the order of their work

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs.pop(name, None)
            outputs[name] = output

        return hook

    layers = {
        name: module
        for name, module in model.named_modules()
        if list(module.parameters()) and not list(module.children())
    }
    with ExitStack() as context:
        context.enter_context(torch.no_grad())
        # A compiled model may have been traced without the hooks, and would leave them out.
        context.enter_context(torch.compiler.set_stance("force_eager"))
        for name, module in layers.items():
            context.callback(module.register_forward_hook(note(name)).remove)
        logits = logits_of(model(inputs))
    if outputs:
        name, output = outputs.popitem()
        last = layers[name]
        spatial = isinstance(last, nn.Conv2d)  # a mean over places follows
        if _is_linear(last, classes) and (spatial or torch.allclose(output, logits)):
            weight: Any = last.weight
            return ClassVectors(weight.flatten(1))
    return ClassVectors(torch.eye(classes, device=logits.device))


def _is_linear(module: nn.Module, classes: int) -> bool:
    """Say whether a module is a linear layer, or a 1×1 convolution, with `classes` outputs."""
    if isinstance(module, nn.Conv2d):
        return module.out_channels == classes and module.kernel_size == (1, 1)
    return isinstance(module, nn.Linear) and module.out_features == classes
