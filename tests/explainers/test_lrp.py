"""LRP against zennit with its own canonizers, and by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from tiny import PLAIN, noise_pass, small_resnet, small_vgg, tiny_backbone, tiny_swin, tiny_vit
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core.backbones import Backbone
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, NotApplicable
from ttame_core.explainers.lrp import Lrp, Unhooked

TARGETS = torch.tensor([[0, 3], [9, 2]])
COMPOSITES = Lrp.Settings.model_json_schema()["properties"]["composite"]["enum"]


def test_without_zennit_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zennit.composites", None)
    with pytest.raises(UserError, match=r"ttame\[lrp\]"):
        REGISTRY["lrp"](tiny_backbone())


def _stirred(net: nn.Module) -> nn.Module:
    """With batch norms that are not the identity, and nothing in place."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator)
        if hasattr(module, "inplace"):
            module.inplace = False
    return net.eval()


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize(
    ("make", "canonizer"), [(small_resnet, "ResNetCanonizer"), (small_vgg, "VGGCanonizer")]
)
def test_it_is_zennits(make: Callable[[], nn.Module], canonizer: str, composite: str) -> None:
    zennit = pytest.importorskip("zennit.torchvision")
    from zennit.composites import COMPOSITES

    backbone = Backbone(_stirred(make()), "net", PLAIN)
    forward = noise_pass(backbone, 2)
    found = REGISTRY["lrp"](backbone, {"composite": composite}).attribute(forward, TARGETS)
    bounds = {"low": torch.full((1, 3, 1, 1), -2.0), "high": torch.full((1, 3, 1, 1), 2.0)}
    rules = COMPOSITES[composite](
        canonizers=[getattr(zennit, canonizer)()], **(bounds if "box" in composite else {})
    )
    inputs = backbone.normalise(forward.images.clone()).requires_grad_()
    with rules.context(_stirred(make())) as net:
        logits = net(inputs)
        for place, row in enumerate(TARGETS.T):
            start = F.one_hot(row, 10).float()
            (relevance,) = torch.autograd.grad(logits, inputs, start, retain_graph=True)
            expected = relevance.sum(dim=1).clamp(min=0)
            assert expected.max() > 0
            assert (found[:, place] - expected).abs().max() < 1e-3 * expected.max()


@pytest.mark.parametrize(
    "model", ["resnet10t", "efficientnet_b0", "mobilenetv3_small_050", "densenet121"]
)
def test_batch_norms_gates_and_swish(model: str) -> None:
    pytest.importorskip("zennit")
    backbone = tiny_backbone(model)
    forward = noise_pass(backbone, 2)
    maps = REGISTRY["lrp"](backbone).attribute(forward, forward.logits.topk(2).indices)
    assert maps.shape == (2, 2, 64, 64)
    assert maps.isfinite().all()
    assert maps.amax(dim=(2, 3)).min() > 0
    assert torch.allclose(noise_pass(backbone, 2).logits, forward.logits, atol=1e-4)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())


def test_what_is_no_module_by_hand() -> None:
    a = torch.tensor([3.0, -1.0], requires_grad=True)
    b = torch.tensor([1.0, 2.0], requires_grad=True)

    def relevance(function: Callable[[Tensor, Tensor], Tensor], *of: Tensor) -> list[list[float]]:
        with Unhooked():
            y = function(a, b)
        found = torch.autograd.grad(y, of, torch.full_like(y, 4.0))
        return [[round(v, 3) for v in part.tolist()] for part in found]

    assert relevance(lambda a, b: a + b, a, b) == [[3, -4], [1, 8]]
    assert relevance(lambda a, b: F.silu(a), a) == [[4, 4]]
    assert relevance(lambda a, b: a * b, a, b) == [[2, 2], [2, 2]]
    assert relevance(lambda a, b: a * torch.sigmoid(b), a) == [[4, 4]]  # the gate has none
    assert relevance(lambda a, b: a.mean(dim=0, keepdim=True), a) == [[6, -2]]
    assert relevance(lambda a, b: a * 2 + 1, a) == [[4, 4]]


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.conv(self.first(x)).relu()).mean(dim=(2, 3)))


def test_who_is_refused() -> None:
    pytest.importorskip("zennit")
    for backbone in (tiny_vit(), tiny_swin(), tiny_backbone("convnext_atto")):
        with pytest.raises(NotApplicable, match="LRP has no rule"):
            REGISTRY["lrp"](backbone)
    with pytest.raises(NotApplicable, match="ScaledStdConv2d"):
        REGISTRY["lrp"](tiny_backbone("nf_resnet26"))
    with pytest.raises(NotApplicable, match="more than once"):
        REGISTRY["lrp"](Backbone(_Twice(), "twice", PLAIN, []))
