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

STEPS, TRANSFORMER_STEPS = 10, 5  # as in the authors' code


class Iia(Explainer):
    """IIA (Barkan et al. 2023, ICCV: Iterated Integrated Attributions).

    The map is the twofold iterated integral IIA2, along the image and along its last
    representation. The first path is a·x, from the mean colour (0 after normalisation) to the image
    x. For each of its points, the second path is v = r + b·(u − r), from a reference r to the last
    representation u(a·x). Both integrals are means over `steps` + 1 evenly spaced points, ends
    included, as in the authors' code; gradients are those of the target's logit f. IIA3, with a
    third layer, is left out.

    In the convolutional form, u is the deepest tap (as for Grad-CAM), and r is the least value of
    each channel; the map is the mean of the sum over channels of (v − r) ⊙ ∂f/∂v. This follows the
    paper. In the authors' code, r is a minimum over an axis of length one and so equals u, which
    leaves only the first integral.

    In the transformer form, for plain vision transformers, u is the last block's attention matrix,
    and r is 0. The integrand is (A ⊙ ∂f/∂A)⁺ for every block's matrix A, the last of which is v.
    The means over both integrals and all heads are rolled out: the identity is added, rows are
    normalised to a sum of 1, the matrices are multiplied, and the class token's row is the map;
    where patch tokens are pooled, the map is the mean of their rows.
    """

    name = "iia"
    forwards = backwards = "about (steps + 1)²"
    applies_to = "plain vision transformers, and taps whose spatial features have a gradient"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        steps: int | None = Field(
            None, ge=1, description="steps of each integral; default: 10; 5 for plain transformers"
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
            for b in self.points[1:]:  # without b = 0, where v − r is 0
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
    """A context in which a layer returns v = r + b · (u − r) in place of u; `moved` is v − r."""

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
    """A context in which the last of `blocks` attentions uses b times its matrix."""

    def __init__(self, blocks: int, b: float) -> None:
        super().__init__()
        self.blocks, self.b = blocks, b

    def use(self, matrix: Tensor) -> Tensor:
        if len(self.matrices) < self.blocks - 1:
            return matrix
        return (self.b * matrix).detach().requires_grad_()


def _row_normalised(matrix: Tensor) -> Tensor:
    """Add the identity to matrices (B, N, N), and scale their rows to a sum of 1, in float64."""
    whole = matrix.double() + torch.eye(matrix.shape[-1], device=matrix.device)
    return whole / whole.sum(dim=-1, keepdim=True)
