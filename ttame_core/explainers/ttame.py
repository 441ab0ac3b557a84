"""The trained attention head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttame_core.attention import AttentionHead
from ttame_core.backbones import Backbone
from ttame_core.explainers.base import Explainer, ForwardPass


class TTame(Explainer):
    """T-TAME (Ntrougkas, Gkalelis, Mezaris 2024, arXiv 2403.04523, section III-E).

    The target's map from the trained head: no pass beyond the classifier's own. The class map
    before the sigmoid, min–max normalised per image: so it is with `recipe: paper` and imported
    heads; others show the attention map, which is what they were trained to mask with
    (docs/training.md).
    """

    name = "ttame"
    needs_head = True

    def __init__(
        self,
        backbone: Backbone,
        settings: dict[str, Any] | None = None,
        head: AttentionHead | None = None,
    ) -> None:
        super().__init__(backbone, settings)
        if head is None:
            raise ValueError("T-TAME needs a trained head")
        self.head = head.eval().fold().to(backbone.device)

    @torch.inference_mode()
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        with self.backbone.autocast():
            return self.head(forward.features, targets).float()
