"""Maps onto images: normalisation, upsampling, kept percentages, masked images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ttame_core.attention import resize

MEASURED_SHARES = (0.1, 0.5)  # of the pixels, kept in training
FADE = 0.05  # of the map's range: how soon pixels under the threshold are gone


def min_max(maps: Tensor) -> Tensor:
    """Each (h, w) map of (…, h, w) min–max normalised to [0, 1].

    A flat map becomes all 0; one that holds NaN, which is no map, stays without.
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
    """The network's input for images under attention maps, upsampled bilinearly.

    images: (B, 3, H, W) in [0, 1]. attention: (B, 1, h, w) in [0, 1]. mode: `raw` masks before
    normalisation (black surroundings, CNNs), `normalised` after it (mean-coloured surroundings,
    transformers) (T-TAME, section III-D).
    """
    mask = resize(attention, tuple(images.shape[-2:]))
    return normalise(images * mask) if mode == "raw" else normalise(images) * mask


def masked_both_ways(
    images: Tensor, class_maps: Tensor, normalise: Callable[[Tensor], Tensor]
) -> Tensor:
    """The network's input for images, half of them under attention maps, half as metrics mask.

    images: (B, 3, H, W) in [0, 1]. class_maps: (B, 1, h, w) before the sigmoid. Those of the second
    half are min–max normalised, and all but their most relevant pixels fade out: each keeps another
    share, spread evenly over MEASURED_SHARES. All are masked before normalisation, as all metrics
    do, whatever the family.
    """
    half = len(images) // 2
    size = tuple(images.shape[-2:])
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
    """The maps with their least relevant pixels set to 0, once per kept percentage.

    maps: (B, H, W) float. keep: V percentages in (0, 100]. Returns (B, V, H, W): pixels below the
    (100 − v)th percentile of their map (linear interpolation between order statistics) are 0, the
    rest as they are.
    """
    thresholds = percentiles(maps, [100 - v for v in keep])
    kept = maps[:, None]
    return torch.where(kept >= thresholds[..., None, None], kept, 0.0)


def percentiles(maps: Tensor, percentages: Sequence[float]) -> Tensor:
    """(B, V) the percentiles of each of (B, H, W) maps, linear between order statistics."""
    flat = maps.flatten(1)
    places = [percentage / 100 * (flat.shape[1] - 1) for percentage in percentages]
    ranks = [min(int(place) + up, flat.shape[1] - 1) for up in (0, 1) for place in places]
    if flat.device.type == "cpu":  # selection in linear time; torch can only sort
        found = torch.from_numpy(np.partition(flat.numpy(), sorted(set(ranks)), axis=1))[:, ranks]
    else:
        found = flat.sort(dim=1).values[:, ranks]
    low, high = found.split(len(places), dim=1)
    return torch.lerp(low, high, maps.new_tensor([place % 1 for place in places]))
