"""Maps onto images: normalisation, upsampling, kept percentages, masked images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    shares = maps.new_tensor([1 - v / 100 for v in keep])
    thresholds = torch.quantile(maps.flatten(1), shares, dim=1).T  # (B, V)
    kept = maps[:, None]
    return torch.where(kept >= thresholds[..., None, None], kept, 0.0)
