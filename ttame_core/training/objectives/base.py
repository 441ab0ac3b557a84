"""What every objective can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Objective(ABC):
    """The term of a head's loss that tells good masks from bad ones.

    A subclass in a module of this package, or in an entry point of the group `ttame.objectives`, is
    what `training.objective` may name.

    Attributes:
        name: in a spec, and of the term in histories.
    """

    name: ClassVar[str]

    @abstractmethod
    def term(self, masked_logits: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over a batch, which training makes small.

        Args:
            masked_logits: (B, K) float32, of the masked images; gradients pass through these.
            logits: (B, K) float32, of the whole images.
            targets: (B,) classes that the masks are to explain.

        Returns:
            A scalar.
        """
