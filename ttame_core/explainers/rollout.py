"""Attention rollout (Abnar, Zuidema 2020, arXiv 2005.00928)."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.explainers.self_attention import Explicit, eager, plain_transformer


class Rollout(Explainer):
    """Attention rollout (Abnar, Zuidema 2020, arXiv 2005.00928, section 3).

    The product of all attention matrices, the same map for every target: each matrix is averaged
    over its heads, and half of it added to half of the identity, for the residual connection. The
    map is the class token's row of the product; where the patch tokens are pooled, the mean of
    their rows.
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
    """Notes of each attention only what rollout needs: (B, N, N)."""

    def keep(self, matrix: Tensor) -> Tensor:
        mean = matrix.mean(dim=1)
        return (mean + torch.eye(mean.shape[-1], device=mean.device)) / 2
