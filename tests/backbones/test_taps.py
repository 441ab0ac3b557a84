"""Taps of very different architectures: as timm's own features, and (B, C, h, w)."""

from __future__ import annotations

import pytest
import timm
import torch
from tiny import PLAIN, TINY_VIT, tiny_backbone
from torch import nn

from ttame_core.backbones import Backbone
from ttame_core.errors import UserError

ARCHITECTURES: dict[str, dict] = {
    "resnet10t": {},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "mobilenetv3_small_050": {},
    "vit_tiny_patch16_224": TINY_VIT,
    "vit_small_patch14_reg4_dinov2": TINY_VIT,  # class token and four registers
    "deit_tiny_distilled_patch16_224": TINY_VIT,
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 4, 4),
    },
    "xcit_nano_12_p16_224": {"img_size": 64},
    "mixer_s32_224": {"img_size": 64},
    "davit_tiny": {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64),
                   "num_heads": (1, 2, 3, 4)},
    "eva02_tiny_patch14_224": TINY_VIT,
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_are_timms_own(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **ARCHITECTURES[name]).eval()
    backbone = Backbone(model, name, PLAIN)
    inputs = torch.randn(2, 3, 64, 64)
    logits, features = backbone.features(inputs)
    with torch.no_grad():
        assert torch.allclose(logits, model(inputs), atol=1e-5)
        theirs = model.forward_intermediates(inputs, indices=3, intermediates_only=True)
    assert len(features) == 3
    for tap, ours, expected in zip(backbone.taps, features, theirs, strict=True):
        assert ours.shape == (2, tap.channels, tap.height, tap.width)
        if ours.shape != expected.shape:  # timm gives NHWC of these as it is
            expected = expected.permute(0, 3, 1, 2)
        assert torch.allclose(ours, expected, atol=1e-4), tap


def test_gradients_reach_the_features_input_and_no_weight() -> None:
    backbone = tiny_backbone()
    inputs = torch.randn(1, 3, 64, 64, requires_grad=True)
    backbone(inputs).sum().backward()
    assert inputs.grad is not None
    assert all(p.grad is None for p in backbone.parameters())


def test_taps_by_index_and_by_name() -> None:
    backbone = tiny_backbone()
    chosen = Backbone(backbone.model, "net", PLAIN, [1, "layer2.0.conv1"])
    assert [tap.module for tap in chosen.taps] == ["layer1", "layer2.0.conv1"]
    last = Backbone(backbone.model, "net", PLAIN, [-1])
    assert last.taps[0].module == "layer4"
    assert last.map_size == (last.taps[0].height, last.taps[0].width)


@pytest.mark.parametrize(
    ("taps", "words"),
    [([17], "no tap 17"), (["layr2"], "Did you mean layer2"), (["fc"], "no feature map")],
)
def test_wrong_taps(taps: list, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Backbone(tiny_backbone().model, "net", PLAIN, taps)


def test_prefix_tokens_are_dropped_and_the_grid_is_in_order() -> None:
    """A change in one patch of the image is a change in that cell of the first block's map."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=5, **TINY_VIT)
    embedding = Backbone(model, "vit", PLAIN, ["patch_embed"])
    image = torch.zeros(1, 3, 64, 64)
    changed = image.clone()
    changed[..., 8:16, 40:48] = 1  # row 1, column 5 of patches of 8
    _, (before,) = embedding.features(image)
    _, (after,) = embedding.features(changed)
    moved = (after - before).abs().sum(dim=1)[0]
    assert torch.nonzero(moved > 1e-6).tolist() == [[1, 5]]


def test_an_input_of_the_wrong_size() -> None:
    model = timm.create_model("vit_tiny_patch16_224", **TINY_VIT)
    wrong = type(PLAIN)((48, 64), 1.0, "center", "bilinear", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match=r"48×64.*img_size"):
        Backbone(model, "vit", wrong)


def test_stays_in_evaluation_mode() -> None:
    backbone = tiny_backbone()
    backbone.train()
    assert not any(module.training for module in backbone.model.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert isinstance(backbone, nn.Module)
