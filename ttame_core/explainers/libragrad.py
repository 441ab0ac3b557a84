"""LibraGrad (Mehri, Baghshah, Pilehvar, CVPR 2025, arXiv 2411.16760)."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.explainers.gradients import target_gradients
from ttame_core.explainers.locally_linear import Constant, check_linear
from ttame_core.explainers.self_attention import (
    Outputs,
    eager,
    plain_transformer,
    transformer_blocks,
)


class LibraGrad(Explainer):
    """Libra FullGrad+ (Mehri, Baghshah, Pilehvar 2025, arXiv 2411.16760, section 3.5).

    Its gradients are those of a network in which weights of attention, standard deviations of layer
    norms and gates of activations are constant, and each of two gated branches has half of the
    gradient. FullGrad+ adds up tokens times their gradient over channels and blocks; here over the
    tokens that each block returns, without terms of biases, as in the authors' evaluation on
    FunnyBirds. Negative sums count as 0.
    """

    name = "libragrad"
    forwards, backwards = "1", "1"
    applies_to = "plain vision transformers made of linear layers, activations, gates and norms"

    @override
    def prepare(self) -> None:
        self.transformer = plain_transformer(self.backbone)
        self.blocks = transformer_blocks(self.backbone, self.transformer)
        check_linear(self.backbone)

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone()).requires_grad_()
        with torch.enable_grad(), eager(self.backbone):
            with Constant(), Outputs(self.blocks) as outputs:
                logits = self.backbone(inputs)
            gradients = target_gradients(logits, targets, outputs.tokens)
        maps = []
        for of_target in gradients:
            pairs = zip(outputs.tokens, of_target, strict=True)
            total = torch.stack([(t.detach() * g).sum(dim=2) for t, g in pairs]).sum(dim=0)
            maps.append(self.transformer.grid(total).clamp(min=0))
        return torch.stack(maps, dim=1)
