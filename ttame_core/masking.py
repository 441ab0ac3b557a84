"""Maps onto images: normalisation, upsampling, kept percentages, masked images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ttame_core.attention import resize


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
