"""Changes of whole pictures which leave their objects alone: light, colour, sharpness, compression.

Each takes and returns images (B, C, H, W) in [0, 1].
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ttame_core.perturbation.masking import blurred

QUALITY = 15  # of JPEG, out of 100
LIGHT = (1.4, 1.0, 0.6)  # factors of red, green and blue in warm light; in cold light turned round
DARKER = 0.6  # factor of all values
BRIGHTER = 0.6  # exponent of all values
BLUR = 0.006  # standard deviation along each side, as a share of that side
NOISE = 0.04  # standard deviation


@dataclass(frozen=True)
class Change:
    """A change of whole pictures.

    Attributes:
        words: what was done to the pictures, in words.
        make: function that makes it.
        coloured: whether it is of pictures in red, green and blue alone.
    """

    words: str
    make: Callable[[Tensor], Tensor]
    coloured: bool = False


def compressed(images: Tensor) -> Tensor:
    """Encode images as JPEG, and decode them."""
    pixels = (255 * images).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for own in pixels:
        stored = io.BytesIO()
        Image.fromarray(own).save(stored, "JPEG", quality=QUALITY)
        decoded.append(np.asarray(Image.open(stored)))
    back = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)
    return back.to(images.device, images.dtype) / 255


def lit(images: Tensor, *factors: float) -> Tensor:
    """Multiply red, green and blue by a factor each, up to 1."""
    return (images * images.new_tensor(factors)[:, None, None]).clamp(max=1)


def noisy(images: Tensor) -> Tensor:
    """Add normal noise, the same to all images of a size."""
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape[1:], generator=chance).to(images)
    return (images + NOISE * noise).clamp(0, 1)


CHANGES: Mapping[str, Change] = {
    "jpeg": Change(f"encoded as a JPEG of quality {QUALITY}", compressed, coloured=True),
    "warm": Change("in warmer light", lambda images: lit(images, *LIGHT), coloured=True),
    "cold": Change("in colder light", lambda images: lit(images, *LIGHT[::-1]), coloured=True),
    "dark": Change("darker", lambda images: DARKER * images),
    "bright": Change("brighter", lambda images: images**BRIGHTER),
    "blur": Change("a little blurred", lambda images: blurred(images, BLUR)),
    "noise": Change("with a little noise", noisy),
}
