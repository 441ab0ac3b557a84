"""Iterated Integrated Attributions against loops over single images and points."""

from __future__ import annotations

import torch
from tiny import PLAIN, TINY_VIT, lively, noise_pass, tiny_backbone
from torch import Tensor, nn

from ttame_core.backbones import Backbone
from ttame_core.explainers.iia import Iia

TARGETS = torch.tensor([[0, 3], [9, 2]])
STEPS = 2
POINTS = (0, 0.5, 1)


def test_convolutional_form_is_the_loop() -> None:
    backbone = lively(tiny_backbone())
    net = backbone.model
    forward = noise_pass(backbone, 2)
    found = Iia(backbone, {"steps": STEPS}).attribute(forward, TARGETS)
    for image, targets, maps in zip(forward.images.clone(), TARGETS.tolist(), found, strict=True):
        inputs = backbone.normalise(image[None])
        for target, heat in zip(targets, maps, strict=True):
            expected = torch.zeros(2, 2)
            for a in POINTS:
                u = net.forward_features(a * inputs)
                r = u.flatten(2).min(dim=2).values[..., None, None]
                for b in POINTS:
                    v = (r + b * (u - r)).requires_grad_()
                    (gradient,) = torch.autograd.grad(net.forward_head(v)[0, target], v)
                    expected += ((v - r) * gradient)[0].sum(dim=0).detach() / len(POINTS) ** 2
            assert torch.allclose(heat, expected, rtol=1e-3, atol=1e-5 * expected.abs().max())


class _Linear(nn.Module):
    """A convolution without bias, averaged over places, and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 8, 8, bias=False), nn.Identity())
        self.head = nn.Linear(6, 10, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs).mean(dim=(2, 3)))


def test_a_linear_classifiers_map_adds_up_to_a_share_of_its_logit() -> None:
    backbone = Backbone(_Linear(), "linear", PLAIN, ["body"])
    forward = noise_pass(backbone, 2)
    found = Iia(backbone, {"steps": 4}).attribute(forward, TARGETS)
    with torch.no_grad():
        u = backbone.model.body(backbone.normalise(forward.images))
        apart = backbone.model.head((u - u.amin(dim=(2, 3), keepdim=True)).mean(dim=(2, 3)))
    # both integrals are of a straight line from 0: half of its end each
    expected = apart.gather(1, TARGETS) / 4
    assert torch.allclose(found.sum(dim=(2, 3)), expected, rtol=1e-4, atol=1e-6)


def _attention(block: nn.Module, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """A timm block's output and attention matrix, computed or given."""
    attention = block.attn
    qkv = attention.qkv(block.norm1(x)).unflatten(2, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    matrix = (qkv[0] @ qkv[1].mT / 4).softmax(dim=-1) if given is None else given
    x = x + attention.proj((matrix @ qkv[2]).transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x)), matrix


def test_transformer_form_is_the_loop() -> None:
    backbone = lively(tiny_backbone("vit_tiny_patch16_224", **(TINY_VIT | {"depth": 3})))
    net = backbone.model
    forward = noise_pass(backbone, 2)
    found = Iia(backbone, {"steps": STEPS}).attribute(forward, TARGETS)

    def run(inputs: Tensor, last: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        x, matrices = net._pos_embed(net.patch_embed(inputs)), []
        for i, block in enumerate(net.blocks):
            x, matrix = _attention(block, x, last if i == 2 else None)
            matrices.append(matrix)
        return net.head(net.norm(x)[:, 0]), matrices

    for image, targets, maps in zip(forward.images.clone(), TARGETS.tolist(), found, strict=True):
        for target, heat in zip(targets, maps, strict=True):
            means = [torch.zeros(65, 65)] * 3
            for a in POINTS:
                inputs = (a * backbone.normalise(image[None])).requires_grad_()
                whole = run(inputs, None)[1][-1].detach()
                for b in POINTS:
                    logits, matrices = run(inputs, (b * whole).requires_grad_())
                    gradients = torch.autograd.grad(logits[0, target], matrices)
                    for i, (matrix, gradient) in enumerate(zip(matrices, gradients, strict=True)):
                        positive = (matrix * gradient).detach().clamp(min=0)[0]
                        means[i] = means[i] + positive.mean(dim=0) / len(POINTS) ** 2
            product = torch.eye(65)
            for mean in means:
                whole = mean + torch.eye(65)
                product = whole / whole.sum(dim=1, keepdim=True) @ product
            expected = product[0, 1:].view(8, 8)
            expected = expected - expected.min()
            assert torch.allclose(heat, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_steps_default_to_the_authors() -> None:
    convolutional = Iia(tiny_backbone())
    assert len(convolutional.points) == 11
    transformer = Iia(tiny_backbone("vit_tiny_patch16_224", **(TINY_VIT | {"depth": 1})))
    assert transformer.points == [0, 0.2, 0.4, 0.6, 0.8, 1]
