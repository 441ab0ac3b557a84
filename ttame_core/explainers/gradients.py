"""Gradients of the targets' logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def target_gradients(
    logits: Tensor, targets: Tensor, places: Sequence[Tensor], unused: bool = False
) -> list[tuple[Tensor, ...]]:
    """Compute gradients of each image's target logits, from one forward pass.

    Args:
        logits: (B, K), with their graph.
        targets: (B, T) class indices.
        places: tensors of the graph to which gradients are computed.
        unused: whether a tensor that the logits do not depend on has a gradient of 0; otherwise it
            is an error.

    Returns:
        For each of the T columns, a gradient for each tensor, of the tensor's shape.
    """
    return [
        torch.autograd.grad(
            logits,
            places,
            F.one_hot(column, logits.shape[1]).to(logits),
            retain_graph=True,
            allow_unused=unused,
            materialize_grads=unused,
        )
        for column in targets.T
    ]
