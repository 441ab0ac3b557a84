"""Attention rollout (Abnar, Zuidema 2020, arXiv 2005.00928)."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.explainers.self_attention import Explicit, eager, plain_transformer


class Rollout(Explainer):
    """Attention rollout (Abnar, Zuidema 2020, arXiv 2005.00928, section 3).

    Each attention matrix is averaged over its heads, and half of it is added to half of the
    identity, which stands for the residual connection. The map is the class token's row of the
    product of all matrices, the same for every target; where the patch tokens are pooled, it is the
    mean of their rows.
    """

    name = "rollout"
    forwards = "1"
    applies_to = "plain vision transformers"

    @override
    def prepare(self) -> None:
        self.transformer = plain_transformer(self.backbone)

    @override
    @torch.no_grad()
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        with eager(self.backbone), _HeadMeans() as attention:
            self.backbone(self.backbone.normalise(forward.images))
        maps = self.transformer.flow(attention.matrices)
        return maps[:, None].expand(-1, targets.shape[1], -1, -1)


class _HeadMeans(Explicit):
    """A context that stores each attention's mean over its heads, (B, N, N)."""

    def keep(self, matrix: Tensor) -> Tensor:
        mean = matrix.mean(dim=1)
        return (mean + torch.eye(mean.shape[-1], device=mean.device)) / 2
