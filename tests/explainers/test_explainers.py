"""Every explainer against an independent reference."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from tiny import PLAIN, TINY_VIT, tiny_backbone

from ttame_core.attention import AttentionHead, resize
from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch, load_batches
from ttame_core.explainers import REGISTRY, NotApplicable, forward_pass
from ttame_core.lake import Lake
from ttame_core.masking import min_max


@pytest.fixture
def batch(drawn: tuple[Lake, str]) -> Batch:
    return next(load_batches(*drawn, ["test-000000"], PLAIN, 4, 2))


def test_registry() -> None:
    assert set(REGISTRY) >= {"ttame", "gradcam", "random", "oracle"}
    assert REGISTRY["ttame"].needs_head
    assert REGISTRY["oracle"].needs_annotations


def _vit() -> Backbone:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY_VIT)
    return Backbone(net, "vit", PLAIN)


def _swin() -> Backbone:
    torch.manual_seed(0)
    net = timm.create_model(
        "swin_tiny_patch4_window7_224",
        num_classes=10,
        img_size=64,
        window_size=4,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 4, 4),
    )
    return Backbone(net, "swin", PLAIN)


# What a user of the library has to know about each model.
BY_HAND = {
    "resnet": (tiny_backbone, lambda m: m.layer4, None),
    "vit": (
        _vit,
        lambda m: m.blocks[-1].norm1,
        lambda t: t[:, 1:].reshape(len(t), 8, 8, -1).permute(0, 3, 1, 2),
    ),
    "swin": (_swin, lambda m: m.layers[-1], lambda t: t.permute(0, 3, 1, 2)),
}


@pytest.mark.parametrize("family", BY_HAND)
def test_gradcam_is_the_librarys_with_nothing_to_configure(family: str, batch: Batch) -> None:
    make, layer, reshape = BY_HAND[family]
    backbone = make()
    targets = torch.arange(10).expand(4, 10)
    ours = REGISTRY["gradcam"](backbone).attribute(forward_pass(backbone, batch), targets)
    model = make().model.requires_grad_(True)
    with GradCAM(model, [layer(model)], reshape_transform=reshape) as cam:
        inputs = backbone.normalise(batch.float_images())
        highest = 0.0
        for column in range(10):
            chosen = [ClassifierOutputTarget(int(t)) for t in targets[:, column]]
            theirs = cam(inputs, chosen)  # upsampled and scaled by the library
            large = min_max(resize(ours[:, column : column + 1], (64, 64)))[:, 0].numpy()
            assert np.abs(large - theirs).max() < 0.02
            highest = max(highest, theirs.max())
    assert highest > 0


def test_gradcam_says_where_it_does_not_apply() -> None:
    torch.manual_seed(0)
    backbone = Backbone(timm.create_model("vit_tiny_patch16_224", **TINY_VIT), "vit", PLAIN)
    only = Backbone(backbone.model, "vit", PLAIN, ["blocks.3.mlp"])
    with pytest.raises(NotApplicable, match="gradient"):
        REGISTRY["gradcam"](only)


def test_ttame_is_the_heads_class_map(batch: Batch) -> None:
    backbone = tiny_backbone()
    torch.manual_seed(5)
    head = AttentionHead([t.channels for t in backbone.taps], 10, backbone.map_size)
    for bn in head.bns:
        torch.nn.init.normal_(bn.running_mean)
    forward = forward_pass(backbone, batch)
    targets = torch.tensor([[0, 3], [1, 3], [2, 3], [9, 3]])
    found = REGISTRY["ttame"](backbone, head).attribute(forward, targets)
    with torch.no_grad():
        every = head.eval()(forward.features)
    expected = torch.stack([every[i, row] for i, row in enumerate(targets)])
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="trained head"):
        REGISTRY["ttame"](backbone)


def test_random_is_the_same_for_the_same_key_and_target(batch: Batch, tiny: Backbone) -> None:
    random = REGISTRY["random"](tiny)
    forward = forward_pass(tiny, batch)
    targets = torch.tensor([[0, 1]] * 4)
    first, again = random.attribute(forward, targets), random.attribute(forward, targets)
    assert torch.equal(first, again)
    assert first.shape == (4, 2, *tiny.map_size)
    flat = first.flatten(0, 1).flatten(1)
    assert len(torch.unique(flat, dim=0)) == 8
    assert 0.4 < first.mean() < 0.6


def test_oracle_is_highest_on_the_objects(batch: Batch, tiny: Backbone) -> None:
    maps = REGISTRY["oracle"](tiny).attribute(forward_pass(tiny, batch), torch.zeros(4, 1).long())
    large = resize(maps, (64, 64))[:, 0]
    for heat, mask in zip(large, batch.masks, strict=True):
        assert heat[mask > 0].mean() > 5 * heat[mask == 0].mean()
        assert mask.flatten()[heat.argmax()] > 0
    bare = Batch(batch.keys, batch.images, batch.labels, [torch.zeros(0, 4)] * 4, [None] * 4)
    none = REGISTRY["oracle"](tiny).attribute(forward_pass(tiny, bare), torch.zeros(4, 1).long())
    assert none.isnan().all()
