"""Transformer attribution (Chefer, Gur, Wolf, CVPR 2021, arXiv 2012.09838)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable
from ttame_core.explainers.gradients import target_gradients
from ttame_core.explainers.self_attention import Explicit, eager, noise, plain_transformer

LOST = 0.01  # share of the relevance that rounding may lose between logits and first block
TINY = 1e-9


class TransformerAttribution(Explainer):
    """Transformer attribution (Chefer, Gur, Wolf 2021, arXiv 2012.09838, section 3.3).

    Gradient times relevance of each attention matrix A is rolled out over the blocks: in a block,
    Ā = I + mean over heads of (∇A ⊙ R)⁺, where ∇A is the gradient of the target's logit and R the
    relevance of A for it (`Relevance`). The map is the class token's row of the product of all Ā;
    where the patch tokens are pooled, it is the mean of their rows. Relevance is divided by sums
    that can be near 0, which magnifies rounding: in single precision, as here and in the authors'
    code, maps of some models are reproducible only to a few per cent.
    """

    name = "transformer_attribution"
    forwards, backwards = "2", "2"
    applies_to = "plain vision transformers made of linear layers, GELU or ReLU, and layer norms"

    @override
    def prepare(self) -> None:
        self.transformer = plain_transformer(self.backbone)
        with torch.enable_grad(), eager(self.backbone), Relevance() as relevance:
            logits = self.backbone(noise(self.backbone).requires_grad_())
        sums = torch.zeros(1)
        if relevance.residual:
            arrived = torch.autograd.grad(logits[:, 0].sum(), relevance.residual)
            sums = torch.stack([r.flatten(1).sum(dim=1) for r in arrived])
        if not (sums - 1).abs().amax(dim=-1).min() < LOST:
            raise NotApplicable(
                f"{self.backbone.name} loses relevance: it has layers for which transformer "
                "attribution has no propagation rule"
            )

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone()).requires_grad_()
        with torch.enable_grad(), eager(self.backbone):
            with Explicit() as attention:
                logits = self.backbone(inputs)
            with Relevance() as relevance:
                relevant = self.backbone(inputs)
        gradients = target_gradients(logits, targets, attention.matrices)
        relevances = target_gradients(relevant, targets, relevance.matrices)
        identity = torch.eye(attention.matrices[0].shape[-1], device=inputs.device)
        maps = []
        for of_target in zip(gradients, relevances, strict=True):
            blocks = zip(*of_target, strict=True)
            positive = [(g * r).clamp(min=0).mean(dim=1) for g, r in blocks]
            maps.append(self.transformer.flow(identity + matrix.double() for matrix in positive))
        return torch.stack(maps, dim=1)


class Relevance(Explicit):
    """A context in which autograd carries relevance back through a network, not gradients.

    The forward pass computes the same as without the context. The backward pass follows sections
    3.1 and 3.2. A linear layer divides relevance by the contributions to x⁺W⁺ + x⁻W⁻, without bias
    (the form in the authors' code). A matrix product or a residual connection gives each operand
    its share, normalised so that the shares add up to what came. Functions of single values, layer
    norms and layer scales pass relevance on. Where a tensor is used twice, autograd adds up what
    comes back. All of the relevance 1 of a logit arrives at the first block.

    Attributes:
        residual: both operands of the first residual connection, one of which is the input of the
            first block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.residual: tuple[Tensor, ...] = ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return _linear(*args, **kwargs)
        if func in SUMS and _alike(*args[:2]):
            self.residual = self.residual or args[:2]
            return _Sum.apply(*args[:2])
        if func in MEANS and args[0].ndim == 3 and 1 in (*args[1:], kwargs.get("dim")):
            return _Mean.apply(args[0])
        if func in SCALINGS and any(isinstance(factor, nn.Parameter) for factor in args[:2]):
            x, scale = args[:2] if isinstance(args[1], nn.Parameter) else (args[1], args[0])
            return _Elementwise.apply(x, lambda x: x * scale)
        if func in ELEMENTWISE:
            return _Elementwise.apply(args[0], lambda x: func(x, *args[1:], **kwargs))
        return super().__torch_function__(func, types, args, kwargs)

    @override
    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return _Product.apply(a, b)

    @override
    def elementwise(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return _Elementwise.apply(x, function)


SUMS = {torch.Tensor.add, torch.Tensor.__add__, torch.add}
MEANS = {torch.Tensor.mean, torch.mean}
SCALINGS = {torch.Tensor.mul, torch.Tensor.mul_, torch.Tensor.__mul__, torch.mul}
ELEMENTWISE = {F.layer_norm, F.rms_norm, F.gelu, F.relu}


def _alike(a: Any, b: Any) -> bool:
    """Say whether two tensors can be the token sequences that a residual connection adds."""
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.ndim == 3


def _share(relevance: Tensor, total: Tensor) -> Tensor:
    """Divide relevance by a total; the result is 0 where the total is 0."""
    return torch.where(total == 0, 0, relevance / (total + TINY * total.sign()))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply `_Linear` under the argument names of F.linear, by which models may call it."""
    return _Linear.apply(input, weight, bias)


class _Linear(torch.autograd.Function):
    """A linear layer xWᵀ (…, D) whose backward pass returns the relevance of x (…, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        x, weight = ctx.saved_tensors
        signed = [(x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))]
        share = _share(relevance, sum(part @ side.mT for part, side in signed))
        return sum(part * (share @ side) for part, side in signed), None, None


class _Product(torch.autograd.Function):
    """A matrix product whose backward pass gives each operand half of the relevance."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        product = a @ b
        ctx.save_for_backward(a, b, product)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        a, b, product = ctx.saved_tensors
        share = _share(relevance, product) / 2
        return a * (share @ b.mT), b * (a.mT @ share)


class _Sum(torch.autograd.Function):
    """A sum whose backward pass gives both operands their relevance, normalised for each image."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, ...]:
        share = _share(relevance, sum(ctx.saved_tensors))
        parts = [operand * share for operand in ctx.saved_tensors]
        sums = [part.sum(dim=(1, 2), keepdim=True) for part in parts]
        total = relevance.sum(dim=(1, 2), keepdim=True)
        per_size = _share(total, sum(s.abs() for s in sums))
        return tuple(
            part * _share(s.abs() * per_size, s) for part, s in zip(parts, sums, strict=True)
        )


class _Mean(torch.autograd.Function):
    """A mean of tokens (B, N, D) whose backward pass divides relevance (B, D) among the tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * _share(relevance, x.sum(dim=1))[:, None]


class _Elementwise(torch.autograd.Function):
    """A function of each element whose backward pass returns the relevance as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance, None
