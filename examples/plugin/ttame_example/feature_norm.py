"""How much a classifier sees where, whatever class it sees."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ttame_core import spec
from ttame_core.explainers import Explainer, ForwardPass


class FeatureNorm(Explainer):
    """The norm of the deepest features at each place; the same for every class."""

    name = "feature-norm"

    class Settings(spec.Section):
        order: float = Field(2.0, gt=0, description="of the norm")

    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        deepest = forward.features[-1].float()  # (B, C, h, w)
        norms = deepest.norm(p=self.settings.order, dim=1)
        return norms[:, None].expand(-1, targets.shape[1], -1, -1)
