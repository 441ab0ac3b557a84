"""The base class of objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Objective(ABC):
    """The term of a head's loss that tells good masks from bad ones.

    The registry holds the subclasses in modules of this package, and those that entry points of the
    group `ttame.objectives` name.

    Attributes:
        name: name of the objective in a spec, and of the term in histories.
    """

    name: ClassVar[str]

    @abstractmethod
    def term(self, masked_logits: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of the term over a batch, which training minimises.

        Args:
            masked_logits: (B, K) float32, logits of the masked images, with gradients.
            logits: (B, K) float32, logits of the whole images.
            targets: (B,), classes that the masks should explain.

        Returns:
            A scalar.
        """
