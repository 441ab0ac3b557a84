"""Layer-wise relevance propagation for convolutional networks, through the package zennit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from ttame_core import spec
from ttame_core.errors import UserError
from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable, bounded
from ttame_core.explainers.gradients import target_gradients
from ttame_core.explainers.self_attention import eager, noise

TINY = 1e-6
ACTIVATIONS = {F.relu, F.relu6, F.silu, F.gelu, F.mish, F.elu, F.hardswish, F.leaky_relu}
ACTIVATIONS |= {torch.relu, torch.relu_, F.hardtanh, F.selu, F.celu, F.prelu, torch.prelu}
GATES = {torch.sigmoid, torch.Tensor.sigmoid, torch.Tensor.sigmoid_, F.sigmoid, F.hardsigmoid}
SUMS = {torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__iadd__}
PRODUCTS = {torch.mul, torch.Tensor.mul, torch.Tensor.mul_}
PRODUCTS |= {torch.Tensor.__mul__, torch.Tensor.__imul__}
MEANS = {torch.mean, torch.Tensor.mean, F.avg_pool2d, F.adaptive_avg_pool2d}
FOREIGN = {F.layer_norm, F.rms_norm, F.group_norm, F.softmax, torch.softmax, torch.Tensor.softmax}
FOREIGN |= {F.scaled_dot_product_attention, F.multi_head_attention_forward, torch.matmul, torch.bmm}
FOREIGN |= {torch.Tensor.matmul, torch.Tensor.__matmul__, torch.div, torch.Tensor.__truediv__}


class Lrp(Explainer):
    """LRP (Bach et al. 2015, PLoS ONE 10; composites: Montavon et al. 2019, section 10.3).

    The relevance of pixels by one of the composites of zennit: a rule for each kind of layer.
    Batch norms are first folded into the convolutions before them; a batch norm that cannot be
    folded passes relevance on as it is, and so do activations. Operations outside modules, which
    zennit does not see, have rules of ttame: the operands of a sum or a mean get the relevance of
    their share in it (the ε-rule), and the gates of squeeze-and-excitation count as constants, so
    that what they multiply keeps its relevance. Pixels with negative relevance count as 0.
    """

    name = "lrp"
    forwards, backwards = "1", "1"
    applies_to = "networks of convolutions, linear layers, batch norms, pools, activations, gates"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        composite: Literal[
            "epsilon_plus_flat",
            "epsilon_alpha2_beta1_flat",
            "epsilon_gamma_box",
            "epsilon_plus",
            "epsilon_alpha2_beta1",
        ] = Field("epsilon_plus_flat", description="zennit's name of the rules")

    @override
    def prepare(self) -> None:
        try:
            self.composites = import_module("zennit.composites").COMPOSITES
            self.merge = import_module("zennit.canonizers").SequentialMergeBatchNorm
        except ImportError:
            raise UserError(
                "the explainer lrp needs the package zennit: pip install 'ttame[lrp]'"
            ) from None
        self._check()
        self.backbone.fold()

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone()).requires_grad_()
        with torch.enable_grad(), eager(self.backbone), self._composite(inputs):
            with Unhooked():
                logits = self.backbone(inputs)
            relevances = target_gradients(logits, targets, [inputs])
        return bounded(torch.stack([r.sum(dim=1).clamp(min=0) for (r,) in relevances], dim=1))

    def _composite(self, inputs: Tensor) -> Any:
        """Make zennit's context in which modules carry relevance back."""
        bounds = {}
        if self.settings.composite == "epsilon_gamma_box":
            black, white = torch.zeros_like(inputs[:1]), torch.ones_like(inputs[:1])
            low, high = self.backbone.normalise(black), self.backbone.normalise(white)
            bounds = {"low": low, "high": high}
        composite = self.composites[self.settings.composite](canonizers=[self.merge()], **bounds)
        return composite.context(self.backbone.model)

    def _check(self) -> None:
        """Check that there is a rule for all that the network does.

        Raises:
            NotApplicable: a layer has no rule, or is used twice.
        """
        from timm.layers import Conv2dSame
        from timm.layers import Linear as CastingLinear

        # Exactly these: others change their weights as they run.
        layers = (nn.Conv2d, Conv2dSame, nn.Linear, CastingLinear)
        name = self.backbone.name
        calls: Counter[nn.Module] = Counter()
        with ExitStack() as hooks, torch.enable_grad(), eager(self.backbone):
            for module in self.backbone.model.modules():
                if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
                    if type(module) not in layers:
                        kind = type(module).__name__
                        raise NotApplicable(f"{name} has layers ({kind}) without a rule of LRP")
                    count = module.register_forward_hook(lambda m, *_: calls.update([m]))
                    hooks.callback(count.remove)
            expected = self.backbone(noise(self.backbone))
            with Unhooked() as unhooked:
                found = self.backbone(noise(self.backbone).requires_grad_())
        if unhooked.foreign:
            raise NotApplicable(
                f"{name} computes {', '.join(sorted(unhooked.foreign))}, for which LRP has no rule "
                "here; attnlrp is for transformers"
            )
        if max(calls.values(), default=0) != 2:
            raise NotApplicable(f"{name} uses a layer more than once, which zennit cannot follow")
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
            raise NotApplicable(f"{name} changes values in place, which LRP cannot follow")


class Unhooked(TorchFunctionMode):
    """A context in which functions outside modules carry relevance back.

    foreign: names of functions that were met for which there is no rule.
    """

    def __init__(self) -> None:
        super().__init__()
        self.foreign: set[str] = set()

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in args[:2] if isinstance(x, Tensor)]
        if not any(x.requires_grad for x in tensors):
            return func(*args, **kwargs)
        if func in FOREIGN:
            self.foreign.add(func.__name__.strip("_"))
        if func in GATES:
            return func(args[0].detach().clone(), *args[1:], **kwargs)
        if func in ACTIVATIONS:
            return _Passed.apply(args[0], lambda x: func(x, *args[1:], **kwargs))
        if func in MEANS:
            return _Shared.apply(lambda x: func(x, *args[1:], **kwargs), args[0])
        if func in SUMS and len(tensors) == 2:
            return _Shared.apply(torch.add, *torch.broadcast_tensors(*tensors))
        if func in PRODUCTS and len(tensors) == 2:
            a, b = tensors if tensors[0].requires_grad else tensors[::-1]
            return _Product.apply(*torch.broadcast_tensors(a, b))
        if func in SUMS | PRODUCTS:
            return _Passed.apply(args[0], lambda x: func(x, *args[1:], **kwargs))
        return func(*args, **kwargs)


class _Passed(torch.autograd.Function):
    """A function of each value whose backward pass returns the relevance as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        return relevance, None


class _Product(torch.autograd.Function):
    """A product whose backward pass gives each operand half of the relevance.

    Where one operand is constant, the other gets all of it.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        return tuple(relevance / sum(wanted) if needed else None for needed in wanted)


class _Shared(torch.autograd.Function):
    """A linear function whose backward pass divides relevance by the inputs' contributions."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        y = function(*inputs)
        ctx.save_for_backward(y, *inputs)
        ctx.function = function
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        y, *inputs = ctx.saved_tensors
        share = relevance / (y + torch.where(y < 0, -TINY, TINY))
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in inputs]
            gradients = torch.autograd.grad(ctx.function(*inputs), inputs, share)
        return None, *(x.detach() * g for x, g in zip(inputs, gradients, strict=True))
