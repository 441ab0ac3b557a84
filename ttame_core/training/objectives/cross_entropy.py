"""The objective of the published T-TAME."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from ttame_core.training.objectives.base import Objective


class CrossEntropy(Objective):
    """The cross-entropy of masked images (T-TAME, section III-C)."""

    name = "cross_entropy"

    @override
    def term(self, masked_logits: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(masked_logits, targets)
