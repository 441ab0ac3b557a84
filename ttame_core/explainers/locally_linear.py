"""Gradients of vision transformers that are treated as linear networks at an image.

Attention, layer norms and activations multiply their input by factors that depend on it: weights of
attention, the reciprocal of a standard deviation, a gate. With these factors held constant, the
logit is the sum of the input times its gradient and of each bias times its gradient. LibraGrad
calls such gradients FullGrad-complete, and layer-wise relevance propagation calls this the identity
rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from ttame_core.backbones import Backbone
from ttame_core.explainers.base import NotApplicable
from ttame_core.explainers.self_attention import Explicit, eager, noise

LOST = 1e-5  # share of the sum of all contributions' sizes that rounding may lose
ACTIVATIONS = {F.gelu, F.silu, F.mish, F.elu, F.hardswish, torch.relu, torch.tanh}
ACTIVATIONS |= {F.relu, F.relu6, F.leaky_relu}
GATES = {torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid, F.hardsigmoid}
PRODUCTS = {torch.Tensor.mul, torch.Tensor.mul_, torch.Tensor.__mul__, torch.mul}
WEIGHTED = {F.linear: 1, F.conv2d: 1, F.layer_norm: 2, F.rms_norm: 2}  # place of the weight


class LocallyLinear(Explicit):
    """A context with other gradients: those of a network that is linear near the given input.

    The forward pass stays the same. In the backward pass, standard deviations of norms, gates, and
    the ratio of an activation to its input count as constants, and a product of two branches gives
    each half of the gradient. Subclasses define how attention counts.

    Attributes:
        factors: parameters that multiply something; all others are added to something.
    """

    def __init__(self) -> None:
        super().__init__()
        self.factors: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in WEIGHTED:
            weight = args[WEIGHTED[func]] if len(args) > WEIGHTED[func] else kwargs.get("weight")
            self.factors.add(id(weight))
        if func is F.layer_norm:
            return _layer_norm(*args, **kwargs)
        if func is F.rms_norm:
            return _rms_norm(*args, **kwargs)
        if func in ACTIVATIONS:
            return _Gated.apply(args[0], func(*args, **kwargs))
        if func in GATES:
            return func(*args, **kwargs).detach()
        if func in PRODUCTS and len(args) == 2:
            for factor in args:
                self.factors.add(id(factor))
            if all(_depends_on_input(factor) for factor in args):
                return half_gradient(args[0] * args[1])
        return super().__torch_function__(func, types, args, kwargs)


class Constant(LocallyLinear):
    """A context in which attention weights count as constants as well in the backward pass."""

    @override
    def elementwise(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x).detach()


def check_linear(backbone: Backbone) -> None:
    """Check on images of noise that the contributions to a logit add up to it.

    Pixels and parameters that are added to something contribute.

    Raises:
        NotApplicable: the backbone has no plain self-attention, or a layer without a rule.
    """
    inputs = noise(backbone).requires_grad_()
    parameters = [p for p in backbone.model.parameters() if p.is_floating_point()]
    with _gradients_of(parameters), torch.enable_grad(), eager(backbone), Constant() as context:
        logit = backbone(inputs)[0].amax()
        added = [p for p in parameters if id(p) not in context.factors]
        gradients = torch.autograd.grad(logit, [inputs, *added], allow_unused=True)
    if not context.matrices or context.foreign:
        raise NotApplicable(f"the attention of {backbone.name} is not plain self-attention")
    parts = [
        (value * gradient).detach().double()
        for value, gradient in zip([inputs, *added], gradients, strict=True)
        if gradient is not None
    ]
    total, sizes = sum(p.sum() for p in parts), sum(p.abs().sum() for p in parts)
    if not abs(total - logit.item()) <= LOST * sizes:
        raise NotApplicable(
            f"contributions do not add up to the logits of {backbone.name}: it has layers for "
            "which there is no linear rule"
        )


@contextmanager
def _gradients_of(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let parameters have gradients in this context, even frozen ones."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def half_gradient(x: Tensor) -> Tensor:
    """Return x, whose gradient is halved on its way back."""
    return _Halved.apply(x)


def _depends_on_input(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad and not isinstance(x, nn.Parameter)


def _layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Compute F.layer_norm; in the backward pass its divisor counts as a constant."""
    centred = x - x.mean(dim=_last(normalized_shape), keepdim=True)
    normalised = _rms_norm(centred, normalized_shape, weight, eps)
    return normalised if bias is None else normalised + bias


def _rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Compute F.rms_norm; in the backward pass its divisor counts as a constant."""
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    mean = x.square().mean(dim=_last(normalized_shape), keepdim=True)
    normalised = x * (mean + eps).rsqrt().detach()
    return normalised if weight is None else normalised * weight


def _last(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


class _Gated(torch.autograd.Function):
    """A function y = f(x) whose ratio y / x is constant in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        return gradient * torch.where(x == 0, 0, y / x), None


class _Halved(torch.autograd.Function):
    """The identity with a backward pass that halves the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2
