"""Maps of the image's middle, where photographers put their subjects: a floor for explainers."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.lake.schemas import YARDSTICK

SPREAD = 0.25  # standard deviation, as a share of each side


class Center(Explainer):
    """A Gaussian at the middle of the map, the same for all images.

    An explainer that scores no better than this one could as well point at the middle. The standard
    deviation is a quarter of each side, and the map has the resolution of the heads' maps.
    """

    name = "center"
    role = YARDSTICK
    reads_image = False

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        down, across = (
            torch.exp(-(((torch.arange(side) + 0.5) / side - 0.5) ** 2) / (2 * SPREAD**2))
            for side in self.backbone.map_size
        )
        return (down[:, None] * across).expand(*targets.shape, -1, -1)
