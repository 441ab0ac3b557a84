"""Attention rollout and transformer attribution against slow references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
from tiny import PLAIN, TINY_VIT, lively, noise_pass, tiny_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core.backbones import Backbone
from ttame_core.explainers import REGISTRY, NotApplicable
from ttame_core.explainers.self_attention import Explicit, plain_transformer
from ttame_core.explainers.transformer_attribution import Relevance

TARGETS = torch.tensor([[0, 3], [9, 2]])
POOLS = {"class token": {}, "pooled": {"global_pool": "avg", "init_values": 0.5}}


def _vit(**arguments: object) -> Backbone:
    return lively(tiny_backbone("vit_tiny_patch16_224", **(TINY_VIT | {"depth": 3}), **arguments))


def _torchvision() -> Backbone:
    net = torchvision.models.VisionTransformer(64, 8, 2, 3, 48, 96, num_classes=10)
    return lively(Backbone(net, "torchvision", PLAIN))


def _huggingface() -> Backbone:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=64,
        patch_size=8,
        num_labels=10,
    )
    net = transformers.ViTForImageClassification(config)
    return lively(Backbone(net, "huggingface", PLAIN))


LIBRARIES = {"timm": _vit, "torchvision": _torchvision, "huggingface": _huggingface}


def _projected(backbone: Backbone, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys (B, N, D) of every block, from what its own layers give."""
    found: list[tuple[Tensor, Tensor]] = []

    def hook(module: nn.Module, args: tuple, output: object) -> None:
        if isinstance(module, nn.MultiheadAttention):
            x, weight, bias = args[0], module.in_proj_weight, module.in_proj_bias
            found.append(F.linear(x, weight, bias).chunk(3, dim=-1)[:2])
        elif isinstance(module, timm.layers.attention.Attention):
            found.append(module.qkv(args[0]).chunk(3, dim=-1)[:2])
        else:
            found.append((module.q_proj(args[0]), module.k_proj(args[0])))

    kinds = ("MultiheadAttention", "Attention", "ViTAttention")
    modules = [m for m in backbone.model.modules() if type(m).__name__ in kinds]
    hooks = [m.register_forward_hook(hook) for m in modules]
    with torch.no_grad():
        backbone(inputs)
    for handle in hooks:
        handle.remove()
    return found


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("pool", POOLS)
def test_rollout_is_the_product_of_attention(library: str, pool: str) -> None:
    if library != "timm" and pool != "class token":
        pytest.skip("has a class token always")
    backbone = LIBRARIES[library](**POOLS[pool])
    forward = noise_pass(backbone, 2)
    found = REGISTRY["rollout"](backbone).attribute(forward, TARGETS)
    assert torch.equal(found[:, 0], found[:, 1])
    product = np.eye(65)
    for query, key in _projected(backbone, backbone.normalise(forward.images)):
        q, k = (x.unflatten(2, (3, 16)).transpose(1, 2).double().numpy() for x in (query, key))
        weights = np.exp(q @ k.swapaxes(2, 3) / 4)
        weights /= weights.sum(axis=-1, keepdims=True)
        product = (0.5 * weights.mean(axis=1) + 0.5 * np.eye(65)) @ product
    row = product[:, 0] if pool == "class token" else product[:, 1:].mean(axis=1)
    expected = row[:, 1:].reshape(2, 8, 8)
    expected -= expected.min(axis=(1, 2), keepdims=True)
    assert np.abs(found[:, 0].numpy() - expected).max() < 1e-5 * expected.max() + 1e-8


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("context", [Explicit, Relevance])
def test_contexts_change_no_logit(library: str, context: type[Explicit]) -> None:
    backbone = LIBRARIES[library]()
    inputs = noise_pass(backbone, 2).images.clone()
    with torch.no_grad():
        expected = backbone(inputs)
        with context() as attention:
            found = backbone(inputs)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert [m.shape for m in attention.matrices] == [(2, 3, 65, 65)] * len(attention.matrices)
    assert torch.allclose(attention.matrices[0].sum(dim=-1), torch.ones(2, 3, 65))


# ---- the authors' relevance propagation, written out for one image -------------------------------


def _over(relevance: Tensor, total: Tensor) -> Tensor:
    return relevance / (total + 1e-9 * total.sign())


def _linear(layer: nn.Linear, x: Tensor, relevance: Tensor) -> Tensor:
    positive, negative = x.clamp(min=0), x.clamp(max=0)
    up, down = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    share = _over(relevance, positive @ up.T + negative @ down.T)
    return positive * (share @ up) + negative * (share @ down)


def _add(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    to_a, to_b = a * _over(relevance, a + b), b * _over(relevance, a + b)
    size_a, size_b = to_a.sum().abs(), to_b.sum().abs()
    for_a = size_a / (size_a + size_b) * relevance.sum()
    for_b = size_b / (size_a + size_b) * relevance.sum()
    return to_a * for_a / to_a.sum(), to_b * for_b / to_b.sum()


def _relevances(backbone: Backbone, inputs: Tensor, target: int) -> tuple[list[Tensor], Tensor]:
    """Relevance of the attention of every block of a timm ViT, and that of the first's input."""
    net = backbone.model
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    hooks = [
        m.register_forward_hook(lambda m, args, out: seen.update({m: (args[0], out)}))
        for m in net.modules()
    ]
    logits = backbone(inputs)
    for handle in hooks:
        handle.remove()
    relevance = F.one_hot(torch.tensor([target]), logits.shape[1]).double()
    relevance = _linear(net.head, seen[net.head][0], relevance)
    tokens = seen[net.blocks[-1]][1] if net.global_pool == "avg" else seen[net.norm][1]
    start = torch.zeros_like(tokens)
    if net.global_pool == "avg":
        start[:, 1:] = tokens[:, 1:] * _over(relevance, tokens[:, 1:].sum(dim=1))[:, None]
    else:
        start[:, 0] = relevance
    relevance, found = start, []
    for block in reversed(net.blocks):
        attention = block.attn
        middle = seen[block.norm2][0]
        straight, branch = _add(middle, seen[block.ls2][1], relevance)
        branch = _linear(block.mlp.fc2, seen[block.mlp.fc2][0], branch)
        branch = _linear(block.mlp.fc1, seen[block.mlp.fc1][0], branch)
        straight, branch = _add(seen[block][0], seen[block.ls1][1], straight + branch)
        branch = _linear(attention.proj, seen[attention.proj][0], branch)
        branch = branch.unflatten(2, (3, 16)).transpose(1, 2)
        qkv = seen[attention.qkv][1].unflatten(2, (3, 3, 16)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        scores = q @ k.mT
        matrix = (scores / 4).softmax(dim=-1)
        share = _over(branch, matrix @ v)
        of_matrix, of_v = matrix * (share @ v.mT) / 2, v * (matrix.mT @ share) / 2
        found.append(of_matrix)
        share = _over(of_matrix, scores)
        of_q, of_k = q * (share @ k) / 2, k * (share.mT @ q) / 2
        parts = torch.stack([of_q, of_k, of_v]).permute(1, 3, 0, 2, 4).flatten(2)
        relevance = straight + _linear(attention.qkv, seen[attention.qkv][0], parts)
    return found[::-1], relevance


def _gradients(backbone: Backbone, inputs: Tensor, target: int) -> list[Tensor]:
    """Of the target's logit at every attention matrix of a timm ViT, unfused by its own switch."""
    matrices: list[Tensor] = []
    hooks = []
    for block in backbone.model.blocks:
        block.attn.fused_attn = False
        keep = block.attn.attn_drop.register_forward_hook(lambda m, args, out: matrices.append(out))
        hooks.append(keep)
    logits = backbone(inputs.requires_grad_())
    for handle in hooks:
        handle.remove()
    return list(torch.autograd.grad(logits[0, target], matrices))


def _double(backbone: Backbone) -> Backbone:
    """In double precision, as shares of sums near 0 keep few digits of single precision."""
    backbone.model.double()
    return backbone


@pytest.mark.parametrize("pool", POOLS)
def test_transformer_attribution_is_the_authors(pool: str) -> None:
    backbone, slow = _vit(**POOLS[pool]), _double(_vit(**POOLS[pool]))
    forward = noise_pass(backbone, 2)
    explainer = REGISTRY["transformer_attribution"](backbone)
    _double(backbone)
    forward = replace(forward, images=forward.images.double())
    found = explainer.attribute(forward, TARGETS)
    for image, targets, maps in zip(forward.images.clone(), TARGETS.tolist(), found, strict=True):
        inputs = backbone.normalise(image[None])
        for target, heat in zip(targets, maps, strict=True):
            relevances, _ = _relevances(slow, inputs, target)
            gradients = _gradients(slow, inputs.clone(), target)
            product = torch.eye(65, dtype=torch.float64)
            for gradient, relevance in zip(gradients, relevances, strict=True):
                mean = (gradient * relevance).clamp(min=0).mean(dim=1)[0]
                product = product + mean @ product
            row = product[0] if pool == "class token" else product[1:].mean(dim=0)
            expected = row[1:].view(8, 8)
            expected = expected - expected.min()
            assert expected.max() > 0
            assert (heat - expected).abs().max() < 1e-5 * expected.max()


@pytest.mark.parametrize("pool", POOLS)
def test_relevance_is_conserved(pool: str) -> None:
    backbone = _double(_vit(**POOLS[pool]))
    streams: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda m, args: streams.append(args[0]))
        for block in backbone.model.blocks
    ]
    inputs = noise_pass(_vit(), 2).images.double().clone().requires_grad_()
    with Relevance() as relevance:
        logits = backbone(inputs)
    for handle in hooks:
        handle.remove()
    arrived = torch.autograd.grad(logits[:, 4].sum(), [*streams, *relevance.matrices])
    for stream in arrived[:3]:
        assert torch.allclose(stream.sum(dim=(1, 2)), torch.ones(2).double(), atol=1e-5)
    assert all(matrix.abs().sum() > 0 for matrix in arrived[3:])


def test_who_is_no_plain_transformer(tiny: Backbone) -> None:
    with pytest.raises(NotApplicable, match="no patch tokens"):
        plain_transformer(tiny)
    small = TINY_VIT | {"depth": 2}
    latent = tiny_backbone("vit_base_patch16_siglip_224", **small)
    with pytest.raises(NotApplicable, match="from all its 64 tokens to all"):
        REGISTRY["rollout"](latent)
    gated = lively(tiny_backbone("eva02_tiny_patch14_224", **small))
    assert REGISTRY["rollout"](gated).transformer.blocks == 2
    with pytest.raises(NotApplicable, match="no propagation rule"):
        REGISTRY["transformer_attribution"](gated)


def test_relative_positions_and_layer_scales_are_covered() -> None:
    small = TINY_VIT | {"depth": 2, "init_values": 0.5}
    backbone = lively(tiny_backbone("beit_base_patch16_224", **small))
    maps = REGISTRY["transformer_attribution"](backbone).attribute(noise_pass(backbone, 2), TARGETS)
    assert maps.shape == (2, 2, 8, 8)


def test_a_linear_layer_may_name_its_arguments() -> None:
    x, weight, bias = torch.randn(2, 5, 4), torch.randn(3, 4), torch.randn(3)
    with Relevance():
        named = F.linear(input=x, weight=weight, bias=bias)
    assert torch.equal(named, F.linear(x, weight, bias))


def test_which_tokens_are_read() -> None:
    small = TINY_VIT | {"depth": 2}
    two = plain_transformer(tiny_backbone("deit_tiny_distilled_patch16_224", **small))
    assert (two.prefix, two.read) == (2, (0, 1))
    registers = plain_transformer(tiny_backbone("vit_small_patch14_reg4_dinov2", **small))
    assert (registers.prefix, registers.read) == (5, (0,))
    pooled = plain_transformer(_vit(global_pool="avg"))
    assert (pooled.prefix, pooled.read) == (1, tuple(range(1, 65)))


@pytest.mark.parametrize("name", ["rollout", "transformer_attribution", "iia", "opticam"])
def test_a_classifier_of_which_only_the_logits_are_seen(name: str) -> None:
    black_box = Backbone(tiny_backbone().model, "box", PLAIN, [])
    with pytest.raises(NotApplicable, match="box"):
        REGISTRY[name](black_box)
