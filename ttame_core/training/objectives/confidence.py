"""An objective that is a smooth form of AD and IC."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from ttame_core.training.objectives.base import Objective


class Confidence(Objective):
    """The mean of softplus(log-odds of the target on the whole image − on the masked one).

    The term falls until the masked image convinces the classifier more than the whole one; for the
    published cross-entropy, a correct classification of the masked image is enough. There must be
    at least two classes.
    """

    name = "confidence"

    @override
    def term(self, masked_logits: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        return F.softplus(log_odds(logits, targets) - log_odds(masked_logits, targets)).mean()


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """Return log(p / (1 − p)) of each target's softmax probability p, without forming p.

    Args:
        logits: (B, K), K ≥ 2.
        targets: (B,) classes.

    Returns:
        (B,).
    """
    column = targets[:, None]
    others = logits.scatter(1, column, float("-inf")).logsumexp(dim=1)
    return logits.gather(1, column)[:, 0] - others
