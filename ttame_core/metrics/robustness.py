"""Robustness of maps: their change when the image hardly changes."""

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
    """Return ‖other − map‖₂ / ‖map‖₂ for each pair of maps.

    Its maximum over images within a radius of the map's own image, as far as sampling finds it, is
    max-sensitivity (Yeh et al. 2019, definition 2), relative to the map.

    Args:
        maps: (B, h, w).
        others: (B, h, w).

    Returns:
        (B,); 0 where both are equal, and infinite where only the map is empty.
    """
    change = (others - maps).flatten(1).norm(dim=1)
    return torch.where(change == 0, 0, change / maps.flatten(1).norm(dim=1))


def perturbations(keys: Sequence[str], shape: Sequence[int], seed: str) -> Tensor:
    """Return noise (B, *shape) float32, uniform in [−1, 1], from B keys and a seed alone."""
    noise = torch.empty(len(keys), *shape)
    for values, key in zip(noise, keys, strict=True):
        values.uniform_(-1, 1, generator=generator_for(f"{seed}/{key}"))
    return noise


class Robustness(Family):
    """Max-sensitivity: a row per map.

    Noise that is uniform within the radius is added to each image in [0, 1], which is clipped to
    [0, 1]. An image's noise is the same for all explainers.
    """

    name = "robustness"
    reexplains = True

    class Settings(spec.Section):
        """The family's keys in a spec."""

        samples: int = Field(10, ge=1, description="number of changed images for each image")
        radius: float = Field(0.02, gt=0, le=1, description="largest change of a pixel's value")
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
