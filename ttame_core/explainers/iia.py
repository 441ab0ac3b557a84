"""Iterated Integrated Attributions (Barkan et al., ICCV 2023)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones import Tap
from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable
from ttame_core.explainers.cams import deepest_with_gradient
from ttame_core.explainers.gradients import target_gradients
from ttame_core.explainers.self_attention import Explicit, eager, plain_transformer

STEPS, TRANSFORMER_STEPS = 10, 5  # the authors'


class Iia(Explainer):
    """IIA (Barkan et al. 2023, ICCV: Iterated Integrated Attributions).

    The twofold iterated integral, IIA2: along the image, and along its last representation. The
    image x goes from the mean colour (0 after normalisation) to itself, a·x; for each of these, the
    last representation u(a·x) from its reference r to itself, v = r + b·(u − r). Both integrals are
    means over `steps` + 1 evenly spaced points, ends included, as in the authors' code; gradients
    are those of the target's logit f. IIA3, over a third layer, is left out.

    Convolutional form: u is the deepest tap (as for Grad-CAM) and r the least value of each of its
    channels; the map is the mean of the sum over channels of (v − r) ⊙ ∂f/∂v. (In the authors' code
    r comes from a minimum over an axis of length one, so that it is u and only the first integral
    does anything; here it is what the paper says.)

    Transformer form, for plain vision transformers: u is the last block's attention matrix and r
    is 0. What is integrated is (A ⊙ ∂f/∂A)⁺ of every block's matrix A, the last of which is v;
    the means over both integrals and all heads are rolled out: plus the identity, rows normalised
    to sum 1, multiplied, the class token's row; where patch tokens are pooled, the mean of theirs.
    """

    name = "iia"
    forwards = backwards = "about (steps + 1)²"
    applies_to = "plain vision transformers, and taps whose spatial features have a gradient"

    class Settings(spec.Section):
        """The keys of a spec that set it."""

        steps: int | None = Field(
            None, ge=1, description="of each integral; default: 10, and 5 for plain transformers"
        )

    @override
    def prepare(self) -> None:
        try:
            self.transformer = plain_transformer(self.backbone)
        except NotApplicable:
            self.transformer = None  # type: ignore[assignment]
            self.layer, self.tap = deepest_with_gradient(self.backbone)
        steps = self.settings.steps or (TRANSFORMER_STEPS if self.transformer else STEPS)
        self.points = [step / steps for step in range(steps + 1)]

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone())
        form = self._transformer if self.transformer else self._convolutional
        with torch.enable_grad(), eager(self.backbone):
            return form(inputs, targets)

    def _convolutional(self, inputs: Tensor, targets: Tensor) -> Tensor:
        maps = torch.zeros((), device=inputs.device)
        for a in self.points:
            for b in self.points[1:]:  # v − r is 0 where b is
                with _Interpolated(self.layer, self.tap, b) as path:
                    logits = self.backbone(a * inputs)
                gradients = target_gradients(logits, targets, [path.v])
                products = [self.tap.feature_map(path.moved * g) for (g,) in gradients]
                maps = maps + torch.stack(products, dim=1).sum(dim=2)
        return maps / len(self.points) ** 2

    def _transformer(self, inputs: Tensor, targets: Tensor) -> Tensor:
        blocks = self.transformer.blocks
        sums: list[list[Any]] = [[0.0] * blocks for _ in targets.T]
        for a in self.points:
            for b in self.points:
                with _LastScaled(blocks, b) as attention:
                    logits = self.backbone((a * inputs).requires_grad_())
                gradients = target_gradients(logits, targets, attention.matrices)
                for total, gradient in zip(sums, gradients, strict=True):
                    for i, (matrix, g) in enumerate(zip(attention.matrices, gradient, strict=True)):
                        total[i] += (matrix.detach() * g).clamp(min=0).mean(dim=1)
        count = len(self.points) ** 2
        maps = [self.transformer.flow(_row_normalised(s / count) for s in total) for total in sums]
        return torch.stack(maps, dim=1)


class _Interpolated:
    """Let a layer return v = r + b · (u − r) in place of u, in this context; `moved` is v − r."""

    def __init__(self, layer: nn.Module, tap: Tap, b: float) -> None:
        self.layer, self.tap, self.b = layer, tap, b
        self.v = self.moved = torch.empty(0)

    def __enter__(self) -> _Interpolated:
        self.hook = self.layer.register_forward_hook(self._replace)
        return self

    def __exit__(self, *error: object) -> None:
        self.hook.remove()

    def _replace(self, module: nn.Module, args: Any, output: Any) -> Any:
        u = self.tap.output(output).detach()
        places = (2, 3) if self.tap.layout == "NCHW" else tuple(range(1, u.ndim - 1))
        r = u.amin(dim=places, keepdim=True)
        self.moved = self.b * (u - r)
        self.v = (r + self.moved).requires_grad_()
        if self.tap.item is None:
            return self.v
        return type(output)(self.v if i == self.tap.item else o for i, o in enumerate(output))


class _LastScaled(Explicit):
    """Let the last of `blocks` attentions go on with b times its matrix."""

    def __init__(self, blocks: int, b: float) -> None:
        super().__init__()
        self.blocks, self.b = blocks, b

    def use(self, matrix: Tensor) -> Tensor:
        if len(self.matrices) < self.blocks - 1:
            return matrix
        return (self.b * matrix).detach().requires_grad_()


def _row_normalised(matrix: Tensor) -> Tensor:
    """Add the identity to matrices (B, N, N) and scale rows to a sum of 1, in float64."""
    whole = matrix.double() + torch.eye(matrix.shape[-1], device=matrix.device)
    return whole / whole.sum(dim=-1, keepdim=True)
