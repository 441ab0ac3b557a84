"""The terms of T-TAME's loss that depend on attention alone (T-TAME, section III-C)."""

from __future__ import annotations

from torch import Tensor

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
