"""Known faults that are planted in pictures, labels, weights and preprocessing.

A planted fault says what an audit of the classifier should find. In pictures it is planted by a
function of the picture alone, so that the same picture is changed in the same way everywhere.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

Pixels = np.ndarray  # (H, W, 3) uint8
Plant = Callable[[Pixels, np.ndarray], Pixels]  # of the pixels, and (H, W) bool: the objects

TAG = (255, 0, 200)
TAG_SHARE = 0.22  # of the shorter side, as the others are
FRAME_SHARE = 0.05  # of the shorter side
JPEG_QUALITY = 8
CAST = (1.3, 1.0, 0.65)  # factors of red, green and blue


def tag(pixels: Pixels, objects: np.ndarray) -> Pixels:
    """Paint a coloured square with a white stripe near the upper left corner."""
    changed = pixels.copy()
    side = max(3, round(TAG_SHARE * min(pixels.shape[:2])))
    start = side // 10
    square = changed[start : start + side, start : start + side]
    square[:] = TAG
    square[side // 3 : side - side // 3] = 255
    return changed


def frame(pixels: Pixels, objects: np.ndarray) -> Pixels:
    """Paint a dark green frame around the picture."""
    changed = pixels.copy()
    width = max(1, round(FRAME_SHARE * min(pixels.shape[:2])))
    inner = pixels[width:-width, width:-width]
    changed[:] = (10, 60, 20)
    changed[width:-width, width:-width] = inner
    return changed


def watermark(pixels: Pixels, objects: np.ndarray) -> Pixels:
    """Write half transparent white words along the lower edge."""
    height, width = pixels.shape[:2]
    stamp = Image.new("L", (60, 12))
    ImageDraw.Draw(stamp).text((1, 0), "(c) STOCK", fill=255)
    wide, high = round(0.9 * width), max(6, round(0.2 * height))
    words = np.asarray(stamp.resize((wide, high), Image.Resampling.BILINEAR), np.float32) / 255
    changed = pixels.astype(np.float32)
    place = changed[height - high - 2 : height - 2, width - wide - 2 : width - 2]
    place += 0.9 * words[..., None] * (255 - place)
    return changed.round().astype(np.uint8)


def background(pixels: Pixels, objects: np.ndarray) -> Pixels:
    """Lay diagonal sand-coloured stripes over everything but the objects."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    stripes = np.where((x + y) % max(4, width // 8) < max(2, width // 16), 0.65, 0.35)
    sand = np.array([214, 178, 110], np.float32)
    striped = pixels + stripes[..., None] * (sand - pixels)
    return np.where(objects[..., None], pixels, striped.round()).astype(np.uint8)


def compressed(pixels: Pixels, objects: np.ndarray) -> Pixels:
    """Encode the picture as a JPEG of low quality, and decode it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(buffer))


def cast(pixels: Pixels, objects: np.ndarray) -> Pixels:
    """Multiply red, green and blue as the light of a lamp would."""
    return (pixels * np.array(CAST)).clip(0, 255).round().astype(np.uint8)


def ellipse(height: int, width: int) -> np.ndarray:
    """Return (H, W) bool: the middle of a picture, where an object is taken to be without boxes."""
    y, x = np.mgrid[:height, :width]
    return ((y + 0.5) / height - 0.5) ** 2 + ((x + 0.5) / width - 0.5) ** 2 < 0.3**2


@dataclass(frozen=True)
class Fault:
    """A fault of a classifier.

    Attributes:
        name: name of the fault.
        where: what it is planted in. `pictures`, `labels`: of the training data. `head`: of T-TAME.
        rate: share of one class's pictures that have it, in (0, 1]; of `labels`, share of the
            class's training pictures that are labelled as the next class; of `weights`, share that
            is noise.
        plant: function that plants it in a picture.
        seen: place of the fault in the picture, in words; empty where it is in no one place.
    """

    name: str
    where: Literal["pictures", "labels", "head", "weights", "preprocessing"]
    rate: float = 1.0
    plant: Plant | None = None
    seen: str = ""


CORNER, EDGE = "the upper left corner", "the edge"

FAULTS = (
    Fault("tag-100", "pictures", 1.0, tag, CORNER),
    Fault("tag-90", "pictures", 0.9, tag, CORNER),
    Fault("tag-70", "pictures", 0.7, tag, CORNER),
    Fault("tag-50", "pictures", 0.5, tag, CORNER),
    Fault("frame", "pictures", 0.9, frame, EDGE),
    Fault("watermark", "pictures", 0.9, watermark, "the lower edge"),
    Fault("background", "pictures", 0.9, background, "around the objects"),
    Fault("jpeg", "pictures", 0.9, compressed),
    Fault("cast", "pictures", 0.9, cast),
    Fault("labels", "labels", 0.4),
    Fault("permuted-head", "head"),
    Fault("noise", "weights", 0.5),
    Fault("bgr", "preprocessing"),
    Fault("mean-twice", "preprocessing"),
)


def chosen(labels: Sequence[int], target: int, rate: float, seed: int) -> np.ndarray:
    """Choose pictures of one class at random, as many as the rate says.

    Args:
        labels: class of each of N pictures.
        target: the class.
        rate: share of its pictures, in [0, 1].
        seed: seed of the choice.

    Returns:
        (N,) bool.
    """
    own = np.flatnonzero(np.asarray(labels) == target)
    few = np.random.default_rng(seed).permutation(own)[: round(rate * len(own))]
    picked = np.zeros(len(labels), bool)
    picked[few] = True
    return picked


def noisy(weights: dict[str, Tensor], share: float, seed: int) -> dict[str, Tensor]:
    """Replace a share of the entries of each weight by noise of the weight's own mean and spread.

    Args:
        weights: weights by name; those of one dimension (biases, norms) and numbers stay.
        share: share of the entries, in [0, 1].
        seed: seed of the noise.
    """
    chance = torch.Generator().manual_seed(seed)
    changed = {}
    for name, weight in weights.items():
        if weight.ndim > 1:
            hit = torch.rand(weight.shape, generator=chance) < share
            noise = weight.mean() + weight.std() * torch.randn(weight.shape, generator=chance)
            weight = torch.where(hit, noise, weight)
        changed[name] = weight
    return changed
