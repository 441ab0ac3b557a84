"""The terms of the loss that depend on the head alone: T-TAME's (section III-C), and L2-SP's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ttame_core.heads.attention import SharedHead

COMPARED_CLASSES = 1024  # of which the distance of fusion weights is taken
AREA_OFFSET = 0.0005  # keeps the derivative of the power finite at 0
BORDER_WEIGHT = 0.3


def area_loss(attention: Tensor, exponent: float = 0.3) -> Tensor:
    """Return mean((A + 0.0005)^λ4) of attention maps A, a scalar.

    Args:
        attention: A, (B, h, w) in [0, 1].
        exponent: λ4.
    """
    return (attention + AREA_OFFSET).pow(exponent).mean()


def variation_loss(attention: Tensor) -> Tensor:
    """Return the variation of attention maps A, a scalar.

    This is the sum of squared differences of neighbours, plus 0.3 · Σ A² over the four borders, all
    divided by 2B.

    Args:
        attention: A, (B, h, w) in [0, 1].
    """
    vertical = (attention[:, 1:] - attention[:, :-1]).square().sum()
    horizontal = (attention[:, :, 1:] - attention[:, :, :-1]).square().sum()
    border = sum(
        edge.square().sum()
        for edge in (attention[:, 0], attention[:, -1], attention[:, :, 0], attention[:, :, -1])
    )
    return (vertical + horizontal + BORDER_WEIGHT * border) / (2 * len(attention))


class DistanceFromStart:
    """How far the fusion weights P c_k of a shared head are from those that it started with.

    This is the penalty of L2-SP (Li, Grandvalet and Davoine, ICML 2018), on the fusion weights of
    all classes instead of on P, so that pictures of some classes leave the maps of others alone:
    the sum over classes of |P c_k − P₀ c_k|², divided by that of |P₀ c_k|².

    Args:
        head: the head, before its first step.

    Attributes:
        matrix: P, which is trained.
        classes: the classes that are compared, int64: all, or of more than 1,024
            (COMPARED_CLASSES) as many at equal distances.
    """

    def __init__(self, head: SharedHead) -> None:
        self.matrix = head.matrix
        self._start = head.matrix.detach().clone()
        classes = head.vectors.weight.shape[0]
        compared = np.linspace(0, classes - 1, min(classes, COMPARED_CLASSES)).astype(np.int64)
        self.classes = torch.from_numpy(compared).to(head.matrix.device)
        self._vectors = head.vectors(self.classes)
        self._size = (self._vectors @ self._start).square().sum()

    def __call__(self) -> Tensor:
        """Return the distance, a scalar: 0 at the start, 1 where it is as long as the weights."""
        return (self._vectors @ (self.matrix - self._start)).square().sum() / self._size
