"""Masking of images by maps: normalisation, upsampling, kept percentages and fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MEASURED_SHARES = (0.1, 0.5)  # range of the shares of pixels that are kept in training
FADE = 0.05  # range of map values, under the threshold, within which pixels fade out
BLUR_SIGMA = 5 / 224  # σ as a share of the image's side: RISE's code has 5 of 224 pixels

Fill = Literal["zero", "mean", "blur"]


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate maps (B, T, h, w) bilinearly (align_corners=False) to `size` (height, width)."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def min_max(maps: Tensor) -> Tensor:
    """Normalise maps (…, h, w) to [0, 1], each by its least and largest value.

    A flat map becomes 0 everywhere. A map that holds NaN, which stands for a missing map, becomes
    NaN.
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return (maps - low) / span.where(span != 0, 1)


def masked(
    images: Tensor,
    attention: Tensor,
    mode: str,
    normalise: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the network's input for images that are multiplied by attention maps.

    Args:
        images: (B, 3, H, W) in [0, 1].
        attention: (B, 1, h, w) in [0, 1], upsampled bilinearly.
        mode: `raw` masks before normalisation, so that masked pixels are black (for CNNs);
            `normalised` masks after it, so that they have the mean colour (for transformers)
            (T-TAME, section III-D).
        normalise: conversion of images in [0, 1] to the network's input.
    """
    mask = resize(attention, images.shape[-2:])
    return normalise(images * mask) if mode == "raw" else normalise(images) * mask


def masked_both_ways(
    images: Tensor, class_maps: Tensor, normalise: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the network's input for images, half masked as in T-TAME and half as metrics do it.

    The first half is multiplied by attention maps. For the second half, class maps are min–max
    normalised, and all but their most relevant pixels fade out; the shares of pixels that images
    keep are spread evenly over MEASURED_SHARES, from a tenth to a half. As metrics do, both mask
    before normalisation.

    Args:
        images: (B, 3, H, W) in [0, 1].
        class_maps: (B, 1, h, w), before the sigmoid.
        normalise: conversion of images in [0, 1] to the network's input.
    """
    half = len(images) // 2
    size = images.shape[-2:]
    attention = resize(torch.sigmoid(class_maps[:half]), size)
    maps = resize(min_max(class_maps[half:]), size)
    low, high = MEASURED_SHARES
    places = torch.arange(len(maps), device=maps.device).add(0.5) / len(maps)
    some = maps.detach()[..., ::3, ::3].flatten(1)  # enough pixels for the thresholds
    ordered = some.sort(dim=1).values
    ranks = (1 - low - (high - low) * places) * (ordered.shape[1] - 1)
    thresholds = ordered.gather(1, ranks.long()[:, None])[..., None, None]
    kept = maps * torch.sigmoid((maps - thresholds) / FADE)
    return normalise(images * torch.cat([attention, kept]))


def keep_most_relevant(maps: Tensor, keep: Sequence[float]) -> Tensor:
    """Set the least relevant pixels of maps to 0, once for each kept percentage.

    Args:
        maps: (B, H, W) float.
        keep: V percentages in (0, 100].

    Returns:
        (B, V, H, W): pixels below the (100 − v)th percentile of their map are 0, and the others
        unchanged. Percentiles are interpolated linearly between order statistics.
    """
    thresholds = percentiles(maps, [100 - v for v in keep])
    kept = maps[:, None]
    return torch.where(kept >= thresholds[..., None, None], kept, 0.0)


def percentiles(maps: Tensor, percentages: Sequence[float]) -> Tensor:
    """Return percentiles (B, V) of maps (B, H, W), interpolated between order statistics.

    Args:
        maps: (B, H, W) float.
        percentages: V percentages in [0, 100].
    """
    flat = maps.flatten(1)
    places = [percentage / 100 * (flat.shape[1] - 1) for percentage in percentages]
    ranks = [min(int(place) + up, flat.shape[1] - 1) for up in (0, 1) for place in places]
    if flat.device.type == "cpu":  # NumPy selects in linear time, where torch would sort
        ordered = torch.from_numpy(np.partition(flat.numpy(), sorted(set(ranks)), axis=1))[:, ranks]
    else:
        ordered = flat.sort(dim=1).values[:, ranks]
    low, high = ordered.split(len(places), dim=1)
    return torch.lerp(low, high, maps.new_tensor([place % 1 for place in places]))


def ranks(maps: Tensor) -> Tensor:
    """Rank the pixels of maps (B, H, W), the most relevant one first.

    Returns:
        (B, H, W) int64 from 0; pixels of equal value are ranked row by row.
    """
    order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(maps.shape)


def fill(images: Tensor, kind: Fill) -> Tensor:
    """Return the images that replace masked pixels, (B, 3, H, W) in [0, 1].

    Args:
        images: (B, 3, H, W) in [0, 1].
        kind: `zero` for black, `mean` for an image's mean colour, or `blur` for the image blurred
            by a Gaussian. Its σ is a share of the image's side (BLUR_SIGMA), and only pixels
            inside the image have a weight.
    """
    if kind == "zero":
        return torch.zeros_like(images)
    if kind == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    return blurred(images)


def blurred(images: Tensor, sigma: float = BLUR_SIGMA) -> Tensor:
    """Blur images (B, C, H, W) by a Gaussian.

    Args:
        images: the images.
        sigma: standard deviation along each side, as a share of that side.
    """
    down, across = (_gaussian(side, images, sigma) for side in images.shape[-2:])
    return down @ images @ across.T


def filled(images: Tensor, maps: Tensor, kind: Fill) -> Tensor:
    """Blend images x and their fill by maps m: x·m + fill·(1 − m).

    Args:
        images: (B, 3, H, W) in [0, 1].
        maps: (B, V, H, W) in [0, 1], V maps for each image.
        kind: the fill: `zero`, `mean` or `blur`.

    Returns:
        (B, V, 3, H, W).
    """
    shown = images[:, None] * maps[:, :, None]
    if kind == "zero":
        return shown
    return shown + fill(images, kind)[:, None] * (1 - maps[:, :, None])


def _gaussian(side: int, like: Tensor, sigma: float) -> Tensor:
    """Return the matrix (side, side) that blurs a line of pixels."""
    places = torch.arange(side, dtype=like.dtype, device=like.device)
    distances = places[:, None] - places
    return (distances / (sigma * side)).square().div(-2).softmax(dim=1)
