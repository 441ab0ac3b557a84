"""The attention mechanisms ("heads") of T-TAME and of L-CAM.

T-TAME's head has a feature branch for each tap: 1×1 convolution, batch norm, skip connection, ReLU.
The branches' outputs are upsampled bilinearly to the largest tap's size and concatenated. The
fusion module, a 1×1 convolution, turns them into a map for each class (T-TAME, section III-B).

A 1×1 convolution commutes with bilinear interpolation, and only the target's map is used. So a
branch's output is multiplied by the target's row of the fusion weight at the tap's own resolution,
and only maps of one channel are upsampled and added. The numbers are the same, and the work is a
small fraction, in training as in inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core.perturbation.masking import resize


class AttentionHead(nn.Module):
    """The trainable head of T-TAME over the taps of one backbone.

    Args:
        channels: number of channels of each tap.
        num_classes: K, the number of classes.
        map_size: (height, width) of the maps.
        shown: maps that the folded head returns: `class` for class maps (T-TAME, section III-E),
            or `attention` for attention maps, their sigmoid.
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
        """Return the feature branches' outputs for the taps' feature maps, (B, C, h, w) each."""
        return [
            F.relu(bn(conv(x)) + x)
            for conv, bn, x in zip(self.convs, self.bns, features, strict=True)
        ]

    def forward(self, features: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        """Return class maps, which are attention maps before the sigmoid.

        Args:
            features: feature maps (B, C, h, w), one for each tap.
            targets: indices of classes, (B,) or (B, T); None for all classes.

        Returns:
            (B, T, H, W) with (H, W) = `map_size`: T is 1 for targets (B,), and K for None.
        """
        return _fuse(self.branches(features), *_weight_and_bias(self.fuser), targets, self.map_size)

    @torch.no_grad()
    def fold(self) -> FoldedHead:
        """Return the head for inference, with batch norms and skip connections folded.

        Both are linear in evaluation mode, so each branch becomes one convolution and a ReLU.
        """
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

    Args:
        channels: number of channels of the tap, as a sequence of one.
        num_classes: K, the number of classes.
        map_size: (height, width) of the maps.
        shown: maps that the folded head returns, `class` or `attention`.
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
        """Return class maps; arguments and result are those of `AttentionHead.forward`."""
        return _fuse(features, *_weight_and_bias(self.fuser), targets, self.map_size)

    def fold(self) -> nn.Module:
        """Return the head for inference, which returns the maps that `shown` names."""
        return _Shown(self)


class _Shown(nn.Module):
    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        maps = self.head(features, targets)
        return torch.sigmoid(maps) if self.head.shown == "attention" else maps


class FoldedHead(nn.Module):
    """The inference form of AttentionHead, made by `AttentionHead.fold`.

    Args:
        weights: weight (C, C, 1, 1) of each branch's convolution.
        biases: bias (C,) of each branch's convolution.
        fusion_weight: weight (K, ΣC, 1, 1) of the fusion module.
        fusion_bias: bias (K,) of the fusion module.
        map_size: (height, width) of the maps.
        shown: maps that the head returns, `class` or `attention`.
    """

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
        """Return the maps that `shown` names; arguments are those of `AttentionHead.forward`."""
        branches = [
            F.relu(F.conv2d(x, getattr(self, f"weight{i}"), getattr(self, f"bias{i}")))
            for i, x in enumerate(features)
        ]
        maps = _fuse(branches, self.fusion_weight, self.fusion_bias, targets, self.map_size)
        return torch.sigmoid(maps) if self.shown == "attention" else maps


Head = AttentionHead | LinearHead  # heads that can be trained


def _weight_and_bias(convolution: Any) -> tuple[Tensor, Tensor]:
    return convolution.weight, convolution.bias


def _fuse(
    branches: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    targets: Tensor | None,
    map_size: tuple[int, int],
) -> Tensor:
    """Apply the fusion module to branches at their own resolutions, then upsample and add.

    Args:
        branches: outputs (B, C, h, w) of the feature branches.
        weight: (K, ΣC, 1, 1).
        bias: (K,).
        targets: indices of classes, (B,) or (B, T); None for all classes.
        map_size: (H, W) of the result (B, T, H, W).
    """
    channels = [x.shape[1] for x in branches]
    if targets is None:
        parts = [
            F.conv2d(x, w) for x, w in zip(branches, weight.split(channels, dim=1), strict=True)
        ]
        offset = bias.view(1, -1, 1, 1)
    else:
        targets = targets.view(targets.shape[0], -1)  # len() would fix the batch size in exports
        rows = weight.flatten(1)[targets].split(channels, dim=2)  # (B, T, C) per tap
        parts = [
            torch.bmm(row.to(x.dtype), x.flatten(2)).unflatten(2, x.shape[2:])
            for x, row in zip(branches, rows, strict=True)
        ]
        offset = bias[targets][..., None, None]
    maps = [resize(part, map_size) for part in parts]
    return torch.stack(maps).sum(dim=0) + offset
