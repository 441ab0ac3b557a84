"""Maps onto images: normalisation, upsampling, kept percentages, masked images, fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MEASURED_SHARES = (0.1, 0.5)  # of the pixels, kept in training
FADE = 0.05  # of the map's range: how soon pixels under the threshold are gone
BLUR_SIGMA = 5 / 224  # of the image's side: that of RISE's code at 224 pixels (Petsiuk et al. 2018)

Fill = Literal["zero", "mean", "blur"]


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate maps (B, T, h, w) bilinearly (align_corners=False) to `size` (height, width)."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def min_max(maps: Tensor) -> Tensor:
    """Normalise each map (h, w) of (…, h, w) to [0, 1] by its least and largest value.

    A flat map becomes all 0. A map that holds NaN, which stands for no map, is NaN afterwards.
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
    """Return the network's input for images under attention maps, upsampled bilinearly.

    images: (B, 3, H, W) in [0, 1]. attention: (B, 1, h, w) in [0, 1]. mode: `raw` masks before
    normalisation (black surroundings, CNNs), `normalised` after it (mean-coloured surroundings,
    transformers) (T-TAME, section III-D).
    """
    mask = resize(attention, images.shape[-2:])
    return normalise(images * mask) if mode == "raw" else normalise(images) * mask


def masked_both_ways(
    images: Tensor, class_maps: Tensor, normalise: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mask half of the images by attention maps and half as metrics mask, for the network.

    images: (B, 3, H, W) in [0, 1]. class_maps: (B, 1, h, w) before the sigmoid. Those of the second
    half are min–max normalised, and all but their most relevant pixels fade out: each keeps another
    share, spread evenly over MEASURED_SHARES. All are masked before normalisation, as all metrics
    do, whatever the family.
    """
    half = len(images) // 2
    size = images.shape[-2:]
    attention = resize(torch.sigmoid(class_maps[:half]), size)
    maps = resize(min_max(class_maps[half:]), size)
    low, high = MEASURED_SHARES
    places = torch.arange(len(maps), device=maps.device).add(0.5) / len(maps)
    some = maps.detach()[..., ::3, ::3].flatten(1)  # enough to tell the thresholds from
    ordered = some.sort(dim=1).values
    ranks = (1 - low - (high - low) * places) * (ordered.shape[1] - 1)
    thresholds = ordered.gather(1, ranks.long()[:, None])[..., None, None]
    kept = maps * torch.sigmoid((maps - thresholds) / FADE)
    return normalise(images * torch.cat([attention, kept]))


def keep_most_relevant(maps: Tensor, keep: Sequence[float]) -> Tensor:
    """Set the least relevant pixels of maps to 0, once per kept percentage.

    maps: (B, H, W) float. keep: V percentages in (0, 100]. Returns (B, V, H, W): pixels below the
    (100 − v)th percentile of their map (linear interpolation between order statistics) are 0, the
    rest as they are.
    """
    thresholds = percentiles(maps, [100 - v for v in keep])
    kept = maps[:, None]
    return torch.where(kept >= thresholds[..., None, None], kept, 0.0)


def percentiles(maps: Tensor, percentages: Sequence[float]) -> Tensor:
    """Return percentiles (B, V) of maps (B, H, W), linear between order statistics."""
    flat = maps.flatten(1)
    places = [percentage / 100 * (flat.shape[1] - 1) for percentage in percentages]
    ranks = [min(int(place) + up, flat.shape[1] - 1) for up in (0, 1) for place in places]
    if flat.device.type == "cpu":  # selection in linear time; torch can only sort
        found = torch.from_numpy(np.partition(flat.numpy(), sorted(set(ranks)), axis=1))[:, ranks]
    else:
        found = flat.sort(dim=1).values[:, ranks]
    low, high = found.split(len(places), dim=1)
    return torch.lerp(low, high, maps.new_tensor([place % 1 for place in places]))


def ranks(maps: Tensor) -> Tensor:
    """Rank the pixels of maps (B, H, W), the most relevant one first: (B, H, W) int64 from 0.

    Ties are broken by the pixels' order, row by row.
    """
    order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(maps.shape)


def fill(images: Tensor, kind: Fill) -> Tensor:
    """Return what masked-out pixels become: (B, 3, H, W) in [0, 1], like the images.

    `zero` is black, `mean` each image's own mean colour, `blur` the image under a Gaussian whose σ
    is BLUR_SIGMA of its side, and whose weights are those that lie inside the image.
    """
    if kind == "zero":
        return torch.zeros_like(images)
    if kind == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    down, across = (_gaussian(side, images) for side in images.shape[-2:])
    return down @ images @ across.T


def filled(images: Tensor, maps: Tensor, kind: Fill) -> Tensor:
    """Blend images and their fill by maps in [0, 1]: x·m + fill·(1 − m).

    images: (B, 3, H, W) in [0, 1]. maps: (B, V, H, W), V for each image. Returns (B, V, 3, H, W).
    """
    shown = images[:, None] * maps[:, :, None]
    if kind == "zero":
        return shown
    return shown + fill(images, kind)[:, None] * (1 - maps[:, :, None])


def _gaussian(side: int, like: Tensor) -> Tensor:
    """Return the matrix (side, side) that blurs a line of pixels."""
    places = torch.arange(side, dtype=like.dtype, device=like.device)
    distances = places[:, None] - places
    return (distances / (BLUR_SIGMA * side)).square().div(-2).softmax(dim=1)
