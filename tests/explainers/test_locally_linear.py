"""LeGrad, LibraGrad and AttnLRP against their papers written out, and against other packages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_self_attention import LIBRARIES, POOLS, TARGETS, _double, _vit
from tiny import PLAIN, TINY_VIT, lively, noise_pass, tiny_backbone, tiny_swin
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core.backbones import Backbone
from ttame_core.explainers import REGISTRY, NotApplicable
from ttame_core.explainers.attnlrp import AttentionRelevance, _weights_of_attention
from ttame_core.explainers.locally_linear import Constant

SMALL = TINY_VIT | {"depth": 2}


def _maps(name: str, backbone: Backbone, settings: dict | None = None) -> Tensor:
    """Maps (2, 2, h, w) of two images and TARGETS, in double precision."""
    explainer = REGISTRY[name](backbone, settings)
    forward = noise_pass(backbone, 2)
    _double(backbone)
    return explainer.attribute(replace(forward, images=forward.images.double()), TARGETS)


def _inputs(backbone: Backbone) -> Tensor:
    """The same two images, normalised, in the backbone's precision."""
    images = noise_pass(tiny_backbone(), 2).images.clone()
    return backbone.normalise(images).to(next(backbone.parameters()).dtype)


# ---- LeGrad --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_legrad_is_the_papers(pool: str) -> None:
    found = _maps("legrad", _vit(**POOLS[pool]))
    backbone = _double(_vit(**POOLS[pool]))
    net, matrices, tokens = backbone.model, [], []
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, args, out: matrices.append(out))
        block.register_forward_hook(lambda m, args, out: tokens.append(out))
    net(_inputs(backbone).requires_grad_())
    for place, row in enumerate(TARGETS.T):
        total = torch.zeros(2, 64)
        for after, matrix in zip(tokens, matrices, strict=True):
            logits = net.head(net.fc_norm(net.norm(after.mean(dim=1))))
            of_targets = logits[0, row[0]] + logits[1, row[1]]
            (gradient,) = torch.autograd.grad(of_targets, matrix, retain_graph=True)
            total = total + gradient.relu().mean(dim=(1, 2))[:, 1:]
        expected = total.view(2, 8, 8) / len(net.blocks)
        assert expected.max() > 0
        assert (found[:, place] - expected).abs().max() < 1e-6 * expected.max()


def test_legrad_is_torchcams() -> None:
    methods = pytest.importorskip("torchcam.methods")
    backbone = LIBRARIES["torchvision"]()
    found = REGISTRY["legrad"](backbone).attribute(noise_pass(backbone, 2), TARGETS)
    net = backbone.model
    with methods.LeGrad(net, list(net.encoder.layers)) as extractor:
        logits = net(_inputs(backbone))
        (expected,) = extractor(TARGETS[:, 1].tolist(), logits, normalized=False)
    assert (found[:, 1] - expected).abs().max() < 1e-5 * expected.max()


def test_legrad_leaves_blocks_as_they_were() -> None:
    backbone = _vit()
    before = noise_pass(backbone, 2).logits
    REGISTRY["legrad"](backbone).attribute(noise_pass(backbone, 2), TARGETS)
    assert torch.equal(noise_pass(backbone, 2).logits, before)
    assert not any("forward" in vars(m) or m._forward_hooks for m in backbone.modules())


# ---- a timm ViT written out, with operations to choose -------------------------------------------


class Libra:
    """Section 3.5 of LibraGrad."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT / 4).softmax(dim=-1).detach() @ v

    def norm(self, x: Tensor, layer: nn.LayerNorm) -> Tensor:
        spread = (x.var(dim=-1, keepdim=True, unbiased=False) + layer.eps).sqrt().detach()
        return (x - x.mean(dim=-1, keepdim=True)) / spread * layer.weight + layer.bias

    def gelu(self, x: Tensor) -> Tensor:
        return x * (0.5 * (1 + torch.erf(x / 2**0.5))).detach()

    def linear(self, x: Tensor, layer: nn.Linear) -> Tensor:
        return layer(x)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Lxt(Libra):
    """The rules of lxt, on relevance."""

    def __init__(self) -> None:
        self.rules = pytest.importorskip("lxt.explicit.functional")

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        quarter = torch.tensor(0.25, dtype=q.dtype)  # a constant factor hands relevance on
        scores = self.rules.matmul(self.rules.mul2(q, quarter), k.mT, False, 1e-12)
        return self.rules.matmul(self.rules.softmax(scores, -1), v, False, 1e-12)

    def norm(self, x: Tensor, layer: nn.LayerNorm) -> Tensor:
        return self.rules.layer_norm(x, layer.weight, layer.bias, layer.eps)

    def gelu(self, x: Tensor) -> Tensor:
        return Identity.apply(x)

    def linear(self, x: Tensor, layer: nn.Linear) -> Tensor:
        return self.rules.linear_epsilon(x, layer.weight, layer.bias, 1e-12)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self.rules.add2(a, b, False, 1e-12)


class Paper(Libra):
    """Equations of AttnLRP, on relevance."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return Attention.apply(q, k, v)

    def norm(self, x: Tensor, layer: nn.LayerNorm) -> Tensor:
        return Shared.apply(lambda x: Libra.norm(self, x, layer), x)

    def gelu(self, x: Tensor) -> Tensor:
        return Identity.apply(x)

    def linear(self, x: Tensor, layer: nn.Linear) -> Tensor:
        return Shared.apply(layer, x)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return Shared.apply(torch.add, a, b)


class Identity(torch.autograd.Function):
    """GELU that hands relevance on."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return F.gelu(x)

    @staticmethod
    def backward(ctx: object, relevance: Tensor) -> Tensor:
        return relevance


class Shared(torch.autograd.Function):
    """The ε-rule, equation 8: of each input what it contributes to a linear function."""

    @staticmethod
    def forward(ctx: object, function: object, *inputs: Tensor) -> Tensor:
        ctx.function, ctx.inputs = function, inputs
        return function(*inputs)

    @staticmethod
    def backward(ctx: object, relevance: Tensor) -> tuple:
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in ctx.inputs]
            y = ctx.function(*inputs)
        gradients = torch.autograd.grad(y, inputs, relevance / y)
        return None, *(x * g for x, g in zip(inputs, gradients, strict=True))


class Attention(torch.autograd.Function):
    """Propositions 3.1 and 3.3."""

    @staticmethod
    def forward(ctx: object, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return (q @ k.mT / 4).softmax(dim=-1) @ v

    @staticmethod
    def backward(ctx: object, relevance: Tensor) -> tuple:
        q, k, v = ctx.saved_tensors
        scores = q @ k.mT / 4
        matrix = scores.softmax(dim=-1)
        share = relevance / (2 * matrix @ v)
        of_matrix, of_v = matrix * (share @ v.mT), v * (matrix.mT @ share)
        of_scores = scores * (of_matrix - matrix * of_matrix.sum(dim=-1, keepdim=True))
        share = of_scores / (2 * scores * 4)
        return q * (share @ k), k * (share.mT @ q), of_v


def _written_out(net: nn.Module, x: Tensor, ops: Libra) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the tokens after each block."""
    x = torch.cat([net.cls_token.expand(len(x), -1, -1), x], dim=1)
    tokens, streams = ops.add(x, net.pos_embed.expand_as(x)), []
    for block in net.blocks:
        qkv = ops.linear(ops.norm(tokens, block.norm1), block.attn.qkv)
        q, k, v = qkv.unflatten(2, (3, 3, 16)).permute(2, 0, 3, 1, 4)
        mixed = ops.attend(q, k, v).transpose(1, 2).flatten(2)
        tokens = ops.add(tokens, block.ls1(ops.linear(mixed, block.attn.proj)))
        hidden = ops.gelu(ops.linear(ops.norm(tokens, block.norm2), block.mlp.fc1))
        tokens = ops.add(tokens, block.ls2(ops.linear(hidden, block.mlp.fc2)))
        streams.append(tokens)
    if net.global_pool == "avg":
        return ops.linear(ops.norm(tokens[:, 1:].mean(dim=1), net.fc_norm), net.head), streams
    return ops.linear(ops.norm(tokens[:, 0], net.norm), net.head), streams


@pytest.mark.parametrize("pool", POOLS)
def test_libragrad_is_the_papers(pool: str) -> None:
    found = _maps("libragrad", _vit(**POOLS[pool]))
    backbone = _double(_vit(**POOLS[pool]))
    net = backbone.model
    logits, streams = _written_out(
        net, net.patch_embed(_inputs(backbone).requires_grad_()), Libra()
    )
    assert torch.allclose(logits, backbone(_inputs(backbone)))
    for place, row in enumerate(TARGETS.T):
        of_targets = logits[0, row[0]] + logits[1, row[1]]
        gradients = torch.autograd.grad(of_targets, streams, retain_graph=True)
        total = sum((t * g).sum(dim=2) for t, g in zip(streams, gradients, strict=True))
        expected = total[:, 1:].view(2, 8, 8).relu()
        assert expected.max() > 0
        assert (found[:, place] - expected).abs().max() < 1e-6 * expected.max()


@pytest.mark.parametrize(("ops", "tolerance"), [(Paper, 1e-5), (Lxt, 2e-4)])  # lxt has an ε
def test_attnlrp_is_the_papers_and_lxts(ops: type[Libra], tolerance: float) -> None:
    found = _maps("attnlrp", _vit(), {"gamma": 0, "patch_gamma": 0})
    backbone = _double(_vit())
    net, inputs = backbone.model, _inputs(backbone).requires_grad_()
    patches = net.patch_embed(inputs)
    # To the tokens of the patches on relevance, and on to the pixels as their gradient times them.
    tokens = patches.detach().requires_grad_()
    logits, _ = _written_out(net, tokens, ops())
    for place, row in enumerate(TARGETS.T):
        of_targets = torch.stack([logits[0, row[0]], logits[1, row[1]]])
        (relevance,) = torch.autograd.grad(
            of_targets, tokens, of_targets.detach(), retain_graph=True
        )
        share = relevance / tokens.detach()
        (gradient,) = torch.autograd.grad(patches, inputs, share, retain_graph=True)
        expected = (inputs * gradient).sum(dim=1).detach().relu()
        assert expected.max() > 0
        assert (found[:, place] - expected).abs().max() < tolerance * expected.max()


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_gamma_rule_is_zennits(kind: str) -> None:
    rules = pytest.importorskip("zennit.rules")
    torch.manual_seed(0)
    layer = nn.Linear(6, 5) if kind == "linear" else nn.Conv2d(3, 5, 3, stride=2, padding=1)
    x = torch.randn(4, 6) if kind == "linear" else torch.randn(2, 3, 7, 7)
    x.requires_grad_()
    with AttentionRelevance({F.linear: 0.3, F.conv2d: 0.3}, set()):
        y = layer(x)
    start = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, start)
    hook = rules.Gamma(0.3)
    handles = hook.register(layer)
    (expected,) = torch.autograd.grad(layer(x), x, start * y)
    handles.remove()
    assert torch.allclose(x * gradient, expected, rtol=1e-3, atol=1e-5)


def test_which_layers_follow_the_epsilon_rule() -> None:
    for library, make in LIBRARIES.items():
        backbone = make()
        inside = _weights_of_attention(backbone)
        names = {n for n, p in backbone.model.named_parameters() if id(p) in inside}
        assert {n for n, _ in backbone.model.named_parameters() if "att" in n} == names, library


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("context", ["constant", "relevance"])
def test_the_forward_pass_stays(library: str, context: str) -> None:
    backbone = LIBRARIES[library]()
    expected = backbone(_inputs(backbone))
    gammas = {F.linear: 0.1, F.conv2d: 0.1}
    with Constant() if context == "constant" else AttentionRelevance(gammas, set()):
        found = backbone(_inputs(backbone))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["eva02_tiny_patch14_224", "beit_base_patch16_224"])
def test_gated_and_relative_transformers(model: str) -> None:
    settings = {"init_values": 0.5} if "beit" in model else {}
    backbone = lively(tiny_backbone(model, **SMALL, **settings))
    for name, size in (("legrad", 8), ("libragrad", 8), ("attnlrp", 64)):
        maps = REGISTRY[name](backbone).attribute(noise_pass(backbone, 2), TARGETS)
        assert maps.shape == (2, 2, size, size)
        assert maps.amax(dim=(2, 3)).min() > 0


def test_quick_gelu_is_a_gate() -> None:
    backbone = lively(tiny_backbone("vit_base_patch32_clip_quickgelu_224", **SMALL))
    assert REGISTRY["libragrad"](backbone).attribute(noise_pass(backbone, 2), TARGETS).max() > 0


@pytest.mark.parametrize("name", ["libragrad", "attnlrp"])
def test_networks_without_a_linear_form_are_refused(name: str) -> None:
    backbone = _vit()
    for block in backbone.model.blocks:
        block.mlp.act = nn.Softplus()  # not 0 at 0
    with pytest.raises(NotApplicable, match="do not add up to the logits"):
        REGISTRY[name](backbone)
    latent = tiny_backbone("vit_base_patch16_siglip_224", **SMALL)
    with pytest.raises(NotApplicable, match="attention"):
        REGISTRY[name](latent)


@pytest.mark.parametrize("name", ["legrad", "libragrad", "attnlrp"])
def test_others_are_refused(name: str, tiny: Backbone) -> None:
    for backbone in (tiny, tiny_swin(), Backbone(tiny_backbone().model, "box", PLAIN, [])):
        with pytest.raises(NotApplicable, match=backbone.name):
            REGISTRY[name](backbone)
