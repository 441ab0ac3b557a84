"""AttnLRP (Achtibat et al., ICML 2024, arXiv 2402.05602)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.explainers.base import Explainer, ForwardPass, bounded
from ttame_core.explainers.gradients import target_gradients
from ttame_core.explainers.locally_linear import LocallyLinear, check_linear, half_gradient
from ttame_core.explainers.self_attention import Explicit, eager, noise

TINY = 1e-6


class AttnLrp(Explainer):
    """AttnLRP (Achtibat et al. 2024, arXiv 2402.05602, section 3).

    The map is the result of layer-wise relevance propagation through attention, down to the pixels.
    The softmax passes on the relevance of its Taylor expansion at its input, each operand of a
    matrix product gets half of the relevance, and layer norms and activations pass theirs on.
    Residual connections and the linear layers of attention follow the ε-rule. The patches'
    convolution and all other linear layers follow the γ-rule, which reduces the noise of vision
    transformers. As in the authors' package lxt, relevance is an input times its gradient, with
    rules in place of some derivatives. Negative sums count as 0.
    """

    name = "attnlrp"
    forwards, backwards = "1", "1"
    applies_to = "transformers made of plain self-attention, linear layers, activations and norms"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        gamma: float = Field(0.05, ge=0, description="γ of linear layers; 0: the ε-rule")
        patch_gamma: float = Field(0.25, ge=0, description="γ of convolutions")

    @override
    def prepare(self) -> None:
        check_linear(self.backbone)
        self.of_attention = _weights_of_attention(self.backbone)

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone()).requires_grad_()
        gammas = {F.linear: self.settings.gamma, F.conv2d: self.settings.patch_gamma}
        with torch.enable_grad(), eager(self.backbone):
            with AttentionRelevance(gammas, self.of_attention):
                logits = self.backbone(inputs)
            gradients = target_gradients(logits, targets, [inputs])
        maps = [(inputs.detach() * gradient).sum(dim=1) for (gradient,) in gradients]
        return bounded(torch.stack(maps, dim=1).clamp(min=0))


class AttentionRelevance(LocallyLinear):
    """A context in which an input times its gradient is its relevance by the rules of AttnLRP.

    Args:
        gammas: γ of F.linear and of F.conv2d.
        of_attention: ids of the weights that follow the ε-rule.
    """

    def __init__(self, gammas: dict[Any, float], of_attention: set[int]) -> None:
        super().__init__()
        self.gammas = gammas
        self.of_attention = of_attention

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.gammas.get(func):
            return self._weighted(func, *args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def _weighted(
        self,
        func: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **kw: Any,
    ) -> Tensor:
        def layer(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return func(x, weight, bias, *args, **kw)

        if id(weight) in self.of_attention:
            return layer(x, weight, bias)
        return _Gamma.apply(x, layer, weight, bias, self.gammas[func])

    @override
    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return half_gradient(a @ b)


class _Gamma(torch.autograd.Function):
    """A linear layer for which x times its gradient is the relevance of x by the γ-rule.

    As in zennit, this is the generalised rule for inputs of both signs (Andéol et al. 2021): where
    the output is positive, positive contributions count (1 + γ)-fold, and where it is negative,
    negative ones do.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layer: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        weight: Tensor,
        bias: Tensor | None,
        gamma: float,
    ) -> Tensor:
        y = layer(x, weight, bias)
        ctx.save_for_backward(x, weight, bias, y)
        ctx.layer, ctx.gamma = layer, gamma
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, y = ctx.saved_tensors
        up, down = (
            weight + ctx.gamma * side for side in (weight.clamp(min=0), weight.clamp(max=0))
        )
        with torch.enable_grad():
            positive, negative = (
                part.detach().requires_grad_() for part in (x.clamp(min=0), x.clamp(max=0))
            )
            of_positive = ctx.layer(positive, up, _enlarged(bias, ctx.gamma, min=0))
            of_positive = of_positive + ctx.layer(negative, down, None)
            of_negative = ctx.layer(positive, down, _enlarged(bias, ctx.gamma, max=0))
            of_negative = of_negative + ctx.layer(negative, up, None)
        relevance = y * gradient
        shares = [
            torch.where(y > 0, relevance / _stable(of_positive), 0),
            torch.where(y < 0, relevance / _stable(of_negative), 0),
        ]
        to_positive, to_negative = torch.autograd.grad(
            [of_positive, of_negative], [positive, negative], shares
        )
        return torch.where(x > 0, to_positive, to_negative), None, None, None, None


def _enlarged(bias: Tensor | None, gamma: float, **side: float) -> Tensor | None:
    return None if bias is None else bias + gamma * bias.clamp(**side)


def _stable(x: Tensor) -> Tensor:
    return x.detach() + torch.where(x < 0, -TINY, TINY)


def _weights_of_attention(backbone: Backbone) -> set[int]:
    """Return the ids of the parameters of modules that compute attention."""
    running: list[nn.Module] = []
    context = _Located(running)
    with ExitStack() as stack:
        for module in backbone.model.modules():
            for hook in (
                module.register_forward_pre_hook(lambda m, args: running.append(m)),
                module.register_forward_hook(lambda m, args, output: _drop(running)),
            ):
                stack.callback(hook.remove)
        with torch.no_grad(), eager(backbone), context:
            backbone(noise(backbone))
    return {id(parameter) for module in context.where for parameter in module.parameters()}


def _drop(running: list[nn.Module]) -> None:
    running.pop()


class _Located(Explicit):
    """A context that notes in `where` which modules compute attention.

    Args:
        running: list of the modules whose forward pass has begun and not ended. The caller keeps it
            up to date; its last element is the module that computes attention.
    """

    def __init__(self, running: list[nn.Module]) -> None:
        super().__init__()
        self.running = running
        self.where: list[nn.Module] = []

    @override
    def keep(self, matrix: Tensor) -> Tensor:
        self.where.append(self.running[-1])
        return matrix
