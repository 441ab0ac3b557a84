"""The attention mechanisms ("heads") of T-TAME and of L-CAM.

T-TAME's head has a feature branch for each tap: 1×1 convolution, batch norm, skip connection, ReLU.
The branches' outputs are upsampled bilinearly to the largest tap's size and concatenated. The
fusion module, a 1×1 convolution, turns them into a map for each class (T-TAME, section III-B).

A 1×1 convolution commutes with bilinear interpolation, and only the target's map is used. So a
branch's output is multiplied by the target's row of the fusion weight at the tap's own resolution,
and only maps of one channel are upsampled and added. The numbers are the same, and the work is a
small fraction, in training as in inference.

The row w_k of the fusion weight is what tells class k from others. `AttentionHead` learns a row for
each class, as published. `SharedHead` learns one matrix P for all classes, w_k = P c_k, where c_k
is the vector by which the classifier itself tells class k from others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core.backbones.class_vectors import ClassVectors
from ttame_core.perturbation.masking import resize


class _Branched(nn.Module):
    """A head with a feature branch for each tap; a subclass has a fusion module after them.

    Args:
        channels: number of channels of each tap.
        map_size: (height, width) of the maps.
        shown: maps that the folded head returns, `class` or `attention`.
    """

    def __init__(self, channels: Sequence[int], map_size: tuple[int, int], shown: str) -> None:
        super().__init__()
        self.map_size, self.shown = map_size, shown
        self.convs = nn.ModuleList(nn.Conv2d(c, c, kernel_size=1) for c in channels)
        self.bns = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)

    def branches(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the feature branches' outputs for the taps' feature maps, (B, C, h, w) each."""
        return [
            F.relu(bn(conv(x)) + x)
            for conv, bn, x in zip(self.convs, self.bns, features, strict=True)
        ]

    def _folded(self, fusion: nn.Module) -> FoldedHead:
        """Return the head for inference, with batch norms and skip connections folded.

        Both are linear in evaluation mode, so each branch becomes one convolution and a ReLU.
        """
        branches = []
        conv: Any
        bn: Any
        for conv, bn in zip(self.convs, self.bns, strict=True):
            scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
            skip = torch.eye(conv.in_channels, dtype=scale.dtype, device=scale.device)
            weight = conv.weight * scale.view(-1, 1, 1, 1) + skip[:, :, None, None]
            branches.append((weight, (conv.bias - bn.running_mean) * scale + bn.bias))
        return FoldedHead(branches, fusion, self.map_size, self.shown)


class AttentionHead(_Branched):
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
        super().__init__(channels, map_size, shown)
        self.fuser = nn.Conv2d(sum(channels), num_classes, kernel_size=1)

    def forward(self, features: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        """Return class maps, which are attention maps before the sigmoid.

        Args:
            features: feature maps (B, C, h, w), one for each tap.
            targets: indices of classes, (B,) or (B, T); None for all classes.

        Returns:
            (B, T, H, W) with (H, W) = `map_size`: T is 1 for targets (B,), and K for None.
        """
        return _fuse(self.branches(features), *self.rows(targets), self.map_size)

    def rows(self, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the fusion module's rows of weights and biases for some classes.

        Args:
            targets: classes (B,) or (B, T); None for all.

        Returns:
            Rows (B, T, ΣC), with a weight for each of the ΣC channels of all taps together, and
            biases (B, T); for all classes (K, ΣC) and (K,).
        """
        return _rows_of(self.fuser.weight.flatten(1), self.fuser.bias, targets)

    @torch.no_grad()
    def fold(self) -> FoldedHead:
        """Return the head for inference, with batch norms and skip connections folded in."""
        return self._folded(_ClassRows(self.fuser.weight.flatten(1), self.fuser.bias))


class SharedHead(_Branched):
    """A head whose fusion module has one matrix P for all classes: w_k = P c_k.

    Pictures of any class teach all classes, and the memory is that of P, however many classes there
    are. A batch norm without parameters stands before the fusion, so that channels of every tap
    have the same scale. Multiplied out, with the norms folded into P, it is an AttentionHead.

    Args:
        channels: number of channels of each tap.
        vectors: the c_k (D) of the classes; they are the classifier's, and no part of the state.
        map_size: (height, width) of the maps.
        shown: maps that the folded head returns, `class` or `attention`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        vectors: ClassVectors,
        map_size: tuple[int, int],
        shown: str = "class",
    ) -> None:
        super().__init__(channels, map_size, shown)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, affine=False) for c in channels)
        self.matrix = nn.Parameter(torch.zeros(vectors.size, sum(channels)))
        self.bias = nn.Parameter(torch.zeros(1))
        self.vectors = vectors

    def forward(self, features: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        """Return class maps; arguments and result are those of `AttentionHead.forward`."""
        normed = zip(self.norms, self.branches(features), strict=True)
        branches = [norm(x) for norm, x in normed]
        rows = self.vectors(_each(targets)) @ self.matrix
        return _fuse(branches, rows, self.bias.expand(rows.shape[:-1]), self.map_size)

    @torch.no_grad()
    def fold(self) -> FoldedHead:
        """Return the same head for inference, with norms and skip connections folded in."""
        norms: Any = list(self.norms)
        scale = torch.cat([norm.running_var.add(norm.eps).rsqrt() for norm in norms])
        matrix = self.matrix * scale
        offset = matrix @ torch.cat([norm.running_mean for norm in norms])
        return self._folded(_SharedRows(matrix, self.bias, offset, self.vectors))

    @torch.no_grad()
    def multiplied_out(self) -> AttentionHead:
        """Return an AttentionHead with the same maps, which stores the row w_k of every class.

        Its memory grows with the number of classes.
        """
        convs: Any = self.convs
        channels = [conv.in_channels for conv in convs]
        weight, bias = self.fold().fusion(None)
        head = AttentionHead(channels, len(weight), self.map_size, self.shown)
        for name in ("convs", "bns"):
            getattr(head, name).load_state_dict(getattr(self, name).state_dict())
        head.fuser.weight.copy_(weight[:, :, None, None])
        assert head.fuser.bias is not None
        head.fuser.bias.copy_(bias)
        return head.to(self.matrix.device).train(self.training)


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
        rows = _rows_of(self.fuser.weight.flatten(1), self.fuser.bias, targets)
        return _fuse(features, *rows, self.map_size)

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
    """The inference form of a head: one convolution for each branch.

    Args:
        branches: weight (C, C, 1, 1) and bias (C,) of each branch's convolution.
        fusion: returns the rows and biases of targets, as `AttentionHead.rows` does.
        map_size: (height, width) of the maps.
        shown: maps that the head returns, `class` or `attention`.
    """

    def __init__(
        self,
        branches: Sequence[tuple[Tensor, Tensor]],
        fusion: nn.Module,
        map_size: tuple[int, int],
        shown: str,
    ) -> None:
        super().__init__()
        self.map_size, self.shown, self.fusion = map_size, shown, fusion
        for i, (weight, bias) in enumerate(branches):
            self.register_buffer(f"weight{i}", weight.clone())
            self.register_buffer(f"bias{i}", bias.clone())

    def forward(self, features: Sequence[Tensor], targets: Tensor | None = None) -> Tensor:
        """Return the maps that `shown` names; arguments are those of `AttentionHead.forward`."""
        branches = [
            F.relu(F.conv2d(x, getattr(self, f"weight{i}"), getattr(self, f"bias{i}")))
            for i, x in enumerate(features)
        ]
        weight, bias = self.fusion(targets)
        maps = _fuse(branches, weight, bias, self.map_size)
        return torch.sigmoid(maps) if self.shown == "attention" else maps


class _ClassRows(nn.Module):
    """A fusion module with a row of weights and a bias for each of K classes.

    A row has ΣC weights, one for each channel of all taps together.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Any) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", bias.clone())

    def forward(self, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        return _rows_of(self.weight, self.bias, targets)


class _SharedRows(nn.Module):
    """A fusion module that computes the row of weights of class k from its class vector c_k (D).

    The row is c_k times a matrix (D, ΣC), where ΣC is the number of channels of all taps together.
    The bias of class k is `bias` less the inner product of c_k and `offset` (D).
    """

    matrix: Tensor
    bias: Tensor
    offset: Tensor

    def __init__(self, matrix: Tensor, bias: Tensor, offset: Tensor, vectors: ClassVectors) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.clone())
        self.register_buffer("bias", bias.clone())
        self.register_buffer("offset", offset.clone())
        self.vectors = vectors

    def forward(self, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        vectors = self.vectors(_each(targets))
        return vectors @ self.matrix, self.bias - vectors @ self.offset


Head = AttentionHead | SharedHead | LinearHead  # each kind that can be trained


def _each(targets: Tensor | None) -> Tensor | None:
    """Return targets (B,) or (B, T) as (B, T)."""
    if targets is None:
        return None
    return targets.view(targets.shape[0], -1)  # len() would fix the batch in exports


def _rows_of(weight: Tensor, bias: Any, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    each = _each(targets)
    return (weight, bias) if each is None else (weight[each], bias[each])


def _fuse(
    branches: Sequence[Tensor], weight: Tensor, bias: Tensor, map_size: tuple[int, int]
) -> Tensor:
    """Apply the fusion module to branches at their own resolutions, then upsample and add.

    Args:
        branches: outputs (B, C, h, w) of the feature branches.
        weight: (B, T, ΣC), or (K, ΣC) for all images alike; ΣC is the number of channels of all
            branches together.
        bias: (B, T), or (K,).
        map_size: (H, W) of the result (B, T, H, W).
    """
    channels = [x.shape[1] for x in branches]
    parts = [
        torch.matmul(row.to(x.dtype), x.flatten(2)).unflatten(2, x.shape[2:])
        for x, row in zip(branches, weight.split(channels, dim=-1), strict=True)
    ]
    maps = [resize(part, map_size) for part in parts]
    return torch.stack(maps).sum(dim=0) + bias[..., None, None]
