"""The attention mechanism of T-TAME ("the head"), its class-selective, folded form, and L-CAM's.

One feature branch per tap (1×1 convolution, batch norm, skip connection, ReLU), bilinear
upsampling to the largest tap's size, concatenation, and the fusion module, a 1×1 convolution to
the classes (T-TAME, section III-B).

A 1×1 convolution commutes with bilinear interpolation, and only the target's output channel is
ever used. So the branch's output is contracted with the target's row of the fusion weight at the
tap's own resolution, and only single-channel results are upsampled and added: the same numbers at
a small fraction of the work, in training as in inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core.perturbation.masking import resize


class AttentionHead(nn.Module):
    """Trainable head over the taps of one backbone.

    channels: of each tap. map_size: (height, width) of the attention maps. shown: which maps the
    folded head gives, `class` (T-TAME, section III-E) or `attention`, their sigmoid.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        map_size: tuple[int, int],
        shown: str = "class",
    ) -> None:
        super().__init__()
        self.map_size, self.shown = map_size, shown
        self.convs = nn.ModuleList(nn.Conv2d(c, c, kernel_size=1) for c in channels)
        self.bns = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.fuser = nn.Conv2d(sum(channels), num_classes, kernel_size=1)

    def branches(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Each tap's feature maps (B, C, h, w) through its feature branch, same shapes."""
        return [
            F.relu(bn(conv(x)) + x)
            for conv, bn, x in zip(self.convs, self.bns, features, strict=True)
        ]

    def forward(self, features: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        """Class maps (attention maps before the sigmoid).

        features: one (B, C, h, w) per tap. targets: (B,) or (B, T) class indices, or None for all
        classes. Returns (B, T, H, W), (B, 1, H, W) for (B,) targets, (B, K, H, W) for None.
        """
        return _fuse(self.branches(features), *_weight_and_bias(self.fuser), targets, self.map_size)

    @torch.no_grad()
    def fold(self) -> FoldedHead:
        """The same head for inference: batch norm and skip connection folded into the branches."""
        weights, biases = [], []
        conv: Any
        bn: Any
        for conv, bn in zip(self.convs, self.bns, strict=True):
            scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
            skip = torch.eye(conv.in_channels, dtype=scale.dtype, device=scale.device)
            weights.append(conv.weight * scale.view(-1, 1, 1, 1) + skip[:, :, None, None])
            biases.append((conv.bias - bn.running_mean) * scale + bn.bias)
        fuser: Any = self.fuser
        return FoldedHead(weights, biases, fuser.weight, fuser.bias, self.map_size, self.shown)


class LinearHead(nn.Module):
    """L-CAM's attention mechanism: a 1×1 convolution from one tap's channels to the classes.

    Arguments as of AttentionHead; its maps have the tap's own size where `map_size` is that.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        map_size: tuple[int, int],
        shown: str = "class",
    ) -> None:
        super().__init__()
        self.map_size, self.shown = map_size, shown
        (width,) = channels
        self.fuser = nn.Conv2d(width, num_classes, kernel_size=1)

    def forward(self, features: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        """As AttentionHead.forward, for features of the one tap."""
        return _fuse(features, *_weight_and_bias(self.fuser), targets, self.map_size)

    def fold(self) -> nn.Module:
        """The same head for inference: it gives the maps that are shown."""
        return _Shown(self)


class _Shown(nn.Module):
    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        maps = self.head(features, targets)
        return torch.sigmoid(maps) if self.head.shown == "attention" else maps


class FoldedHead(nn.Module):
    """Inference form of AttentionHead: the maps that are shown, one convolution per branch."""

    fusion_weight: Tensor
    fusion_bias: Tensor

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        fusion_weight: Tensor,
        fusion_bias: Tensor,
        map_size: tuple[int, int],
        shown: str,
    ) -> None:
        super().__init__()
        self.map_size, self.shown = map_size, shown
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            self.register_buffer(f"weight{i}", weight.clone())
            self.register_buffer(f"bias{i}", bias.clone())
        self.register_buffer("fusion_weight", fusion_weight.clone())
        self.register_buffer("fusion_bias", fusion_bias.clone())

    def forward(self, features: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        """As AttentionHead.forward in evaluation mode, through a sigmoid where that is shown."""
        branches = [
            F.relu(F.conv2d(x, getattr(self, f"weight{i}"), getattr(self, f"bias{i}")))
            for i, x in enumerate(features)
        ]
        maps = _fuse(branches, self.fusion_weight, self.fusion_bias, targets, self.map_size)
        return torch.sigmoid(maps) if self.shown == "attention" else maps


Head = AttentionHead | LinearHead  # either kind that can be trained


def _weight_and_bias(convolution: Any) -> tuple[Tensor, Tensor]:
    return convolution.weight, convolution.bias


def _fuse(
    branches: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    targets: Tensor | None,
    map_size: tuple[int, int],
) -> Tensor:
    """Fusion module on un-upsampled branches; `weight` is (K, ΣC, 1, 1)."""
    channels = [x.shape[1] for x in branches]
    if targets is None:
        parts = [
            F.conv2d(x, w) for x, w in zip(branches, weight.split(channels, dim=1), strict=True)
        ]
        offset = bias.view(1, -1, 1, 1)
    else:
        targets = targets.view(targets.shape[0], -1)  # len() would fix the batch in exports
        rows = weight.flatten(1)[targets].split(channels, dim=2)  # (B, T, C) per tap
        parts = [
            torch.bmm(row.to(x.dtype), x.flatten(2)).unflatten(2, x.shape[2:])
            for x, row in zip(branches, rows, strict=True)
        ]
        offset = bias[targets][..., None, None]
    maps = [resize(part, map_size) for part in parts]
    return torch.stack(maps).sum(dim=0) + offset
