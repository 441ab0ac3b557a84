"""Batch norms folded away: the same outputs, in networks of every habit."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from ttame_core.backbones import Backbone, Preprocessing
from ttame_core.training.coverage import random_backbone

SMALL = Preprocessing((32, 32), 1.0, "center", "bilinear", (0.5,) * 3, (0.25,) * 3)


@torch.no_grad()
def _stir(model: nn.Module) -> None:
    """Batch-norm statistics that are not trivial."""
    generator = torch.Generator().manual_seed(1)
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.running_mean.uniform_(-0.2, 0.2, generator=generator)
        norm.running_var.uniform_(0.8, 1.2, generator=generator)
        if norm.affine:
            norm.weight.uniform_(0.8, 1.2, generator=generator)
            norm.bias.uniform_(-0.2, 0.2, generator=generator)


@pytest.mark.parametrize(
    ("model", "left"),
    [
        ("resnet10t", 0),
        ("mobilenetv3_small_050", 0),
        ("tf_efficientnet_lite0", 0),  # convolutions that pad as TensorFlow does
        ("densenet121", 62),  # norms of what was concatenated
        ("resnetv2_50", 17),  # norms before convolutions
        ("dpn68", 27),
        ("nf_resnet26", 0),  # convolutions that standardise their weights
    ],
)
def test_outputs_and_input_gradients_stay(model: str, left: int) -> None:
    backbone = random_backbone(model, (64, 64))
    _stir(backbone)
    images = torch.rand(2, 3, 64, 64)

    def outputs() -> list[torch.Tensor]:
        inputs = backbone.normalise(images).requires_grad_()
        logits, features = backbone.features(inputs)
        (gradient,) = torch.autograd.grad(logits.square().sum(), inputs)
        return [logits, *features, gradient]

    before = outputs()
    assert sum(isinstance(m, nn.BatchNorm2d) for m in backbone.fold().modules()) == left
    *after, gradient = outputs()
    *values, expected = before
    for a, b in zip(after, values, strict=True):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max()
    # What lies on a ReLU's kink may fall to its other side: few places, but not by little.
    assert (gradient - expected).norm() <= 1e-3 * expected.norm()


class _Odd(nn.Module):
    """A convolution whose output is used beside its norm, or one used twice."""

    def __init__(self, habit: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), BatchNormAct2d(3)
        self.last, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.habit = habit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.habit == "shared convolution":
            x = self.norm(y) + self.conv(x * 2)
        elif self.habit == "used beside":
            x = self.norm(y) + y
        else:
            x = self.norm(y)
        return self.fc(self.last(x).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("habit", "taps", "folded"),
    [
        ("plain", ["last"], True),
        ("plain", ["norm", "last"], True),
        ("plain", ["conv", "last"], False),
        ("shared convolution", ["last"], False),
        ("used beside", ["last"], False),
    ],
)
def test_what_cannot_be_folded_stays(habit: str, taps: list[str], folded: bool) -> None:
    torch.manual_seed(0)
    net = _Odd(habit)
    _stir(net)
    if habit == "used beside":
        net.norm.act = nn.ReLU(inplace=False)
    backbone = Backbone(net, "odd", SMALL, taps)
    inputs = backbone.normalise(torch.rand(2, 3, 32, 32))
    before = backbone.features(inputs)
    backbone.fold()
    after = backbone.features(inputs)
    assert isinstance(net.norm, BatchNormAct2d) != folded
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
