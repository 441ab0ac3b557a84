"""The terms of T-TAME's loss (T-TAME, section III-C), and one of ours."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

AREA_OFFSET = 0.0005  # keeps the derivative of the power finite at 0
BORDER_WEIGHT = 0.3


def area_loss(attention: Tensor, exponent: float = 0.3) -> Tensor:
    """mean((A + 0.0005)^λ4) of attention maps A (B, h, w) in [0, 1]; a scalar."""
    return (attention + AREA_OFFSET).pow(exponent).mean()


def confidence_loss(masked_logits: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """mean(softplus(log-odds of the target on the whole image − on the masked one)); a scalar.

    A smooth AD and IC: it falls until the masked image is the one that convinces more, where the
    published cross-entropy is content with a masked image that is classified rightly. logits:
    (B, K), K ≥ 2. targets: (B,).
    """
    return F.softplus(log_odds(logits, targets) - log_odds(masked_logits, targets)).mean()


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """log(p / (1 − p)) of each target's softmax probability, without forming p; (B,)."""
    column = targets[:, None]
    others = logits.scatter(1, column, float("-inf")).logsumexp(dim=1)
    return logits.gather(1, column)[:, 0] - others


def variation_loss(attention: Tensor) -> Tensor:
    """Σ squared neighbour differences, plus 0.3 · Σ A² over the four borders, by 2B; a scalar.

    attention: (B, h, w) in [0, 1].
    """
    vertical = (attention[:, 1:] - attention[:, :-1]).square().sum()
    horizontal = (attention[:, :, 1:] - attention[:, :, :-1]).square().sum()
    border = sum(
        edge.square().sum()
        for edge in (attention[:, 0], attention[:, -1], attention[:, :, 0], attention[:, :, -1])
    )
    return (vertical + horizontal + BORDER_WEIGHT * border) / (2 * len(attention))
