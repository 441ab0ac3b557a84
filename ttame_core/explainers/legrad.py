"""LeGrad (Bousselham et al., ICCV 2025, arXiv 2404.03214)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.explainers.gradients import target_gradients
from ttame_core.explainers.self_attention import (
    Explicit,
    Outputs,
    eager,
    plain_transformer,
    transformer_blocks,
)


class LeGrad(Explainer):
    """LeGrad (Bousselham et al. 2025, arXiv 2404.03214, section 3).

    The map tells how sensitive each block's own score is to its attention. The tokens that a block
    returns are averaged, and the layers after the last block (a norm, the classifier) make logits
    from the mean. The positive part of the gradient of the target's logit with respect to the
    block's attention matrix is averaged over heads and over the tokens that attend; the map is the
    mean over all blocks.
    """

    name = "legrad"
    forwards, backwards = "1 + blocks", "blocks"
    applies_to = "plain vision transformers"

    @override
    def prepare(self) -> None:
        self.transformer = plain_transformer(self.backbone)
        self.blocks = transformer_blocks(self.backbone, self.transformer)

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone()).requires_grad_()
        maps = torch.zeros((), device=inputs.device)
        with torch.enable_grad(), eager(self.backbone):
            with Explicit() as attention, Outputs(self.blocks) as outputs:
                self.backbone(inputs)
            for tokens, matrix in zip(outputs.tokens, attention.matrices, strict=True):
                mean = tokens.mean(dim=1, keepdim=True).expand_as(tokens)
                last = (mean, *outputs.last[1:]) if isinstance(outputs.last, tuple) else mean
                with _returning(self.blocks, last):
                    logits = self.backbone(inputs)
                gradients = target_gradients(logits, targets, [matrix])
                rows = [g.clamp(min=0).mean(dim=(1, 2)) for (g,) in gradients]
                maps = maps + torch.stack([self.transformer.grid(row) for row in rows], dim=1)
        return maps / len(self.blocks)


@contextmanager
def _returning(blocks: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Let all blocks return `output` without computing anything, in this context."""
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        vars(block)["forward"] = lambda *args, **kwargs: output
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del vars(block)["forward"]
            if forward is not None:
                vars(block)["forward"] = forward
