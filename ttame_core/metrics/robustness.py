"""Robustness of maps: how much they change where the image hardly does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ttame_core import spec
from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.seeding import generator_for


def relative_change(maps: Tensor, others: Tensor) -> Tensor:
    """(B,) ‖other − map‖₂ / ‖map‖₂; 0 where they are equal, infinite where only the map is empty.

    maps, others: (B, h, w). Its largest value over images within r of the map's own, as far as
    sampling finds it, is max-sensitivity (Yeh et al. 2019, definition 2), relative to the map.
    """
    change = (others - maps).flatten(1).norm(dim=1)
    return torch.where(change == 0, 0, change / maps.flatten(1).norm(dim=1))


def perturbations(keys: Sequence[str], shape: Sequence[int], seed: str) -> Tensor:
    """(B, *shape) float32, uniform in [−1, 1]; each depends on its key and the seed alone."""
    noise = torch.empty(len(keys), *shape)
    for values, key in zip(noise, keys, strict=True):
        values.uniform_(-1, 1, generator=generator_for(f"{seed}/{key}"))
    return noise


class Robustness(Family):
    """Max-sensitivity: a row per map.

    Each image, in [0, 1], is moved by noise that is uniform within the radius, and stays in
    [0, 1]; an image's noise is the same for all explainers.
    """

    name = "robustness"
    reexplains = True

    class Settings(spec.Section):
        """The keys of a spec that set it."""

        samples: int = Field(10, ge=1, description="images tried around each image")
        radius: float = Field(0.02, gt=0, le=1, description="most that a pixel's value changes")
        seed: spec.Seed = 0

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        explainer = mapped.explainer(mapped.backbone)
        largest = mapped.maps.new_zeros(len(mapped.maps))
        for sample in range(self.settings.samples if explainer.reads_image else 0):
            maps = mapped.explain(explainer, self._moved(mapped, sample))
            largest = torch.maximum(largest, relative_change(mapped.maps, maps))
        for row, value in zip(mapped.rows, largest.tolist(), strict=True):
            if math.isfinite(value):
                yield {**row, "max_sensitivity": value}

    def _moved(self, mapped: MappedImages, sample: int) -> Tensor:
        keys = [row["key"] for row in mapped.rows]
        noise = perturbations(keys, mapped.images.shape[1:], f"{self.settings.seed}/{sample}")
        return (mapped.images + self.settings.radius * noise.to(mapped.images.device)).clamp(0, 1)
