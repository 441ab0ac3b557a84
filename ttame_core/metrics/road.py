"""ROAD, remove and debias (Rong et al. 2022, arXiv 2202.00449).

The most relevant (MoRF) or the least relevant pixels (LeRF) are removed and imputed linearly from
the others, so that the classifier cannot see the shape of the hole. With a good map, the target's
probability falls early under MoRF and late under LeRF.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ttame_core import spec
from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.imputation import impute
from ttame_core.perturbation.masking import ranks

ORDERS = ("MoRF", "LeRF")


@torch.inference_mode()
def imputed_probabilities(
    probe: Probe, relevance: Tensor, percentages: Sequence[float], noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the probability of the targets on imputed images, and whether those are predicted.

    The most relevant pixels are removed first (MoRF) or the least relevant (LeRF).

    Args:
        probe: B images with their targets, and the classifier.
        relevance: (B, H, W) int64, rank of each pixel in the image's explanation map, from 0 for
            the most relevant one (`masking.ranks`).
        percentages: V percentages of removed pixels.
        noise: (B, 3, H, W), which is added to imputed pixels.

    Returns:
        (B, 2, V) float32 in [0, 1], and (B, 2, V) bool; MoRF comes before LeRF.
    """
    images, pixels = probe.images, relevance[0].numel()
    counts = torch.tensor([round(p / 100 * pixels) for p in percentages], device=images.device)
    first = torch.cat([torch.zeros_like(counts), pixels - counts])[:, None, None]
    last = first + counts.repeat(2)[:, None, None]

    def imputed(image: Tensor, variant: Tensor) -> Tensor:
        removed = (relevance[image] >= first[variant]) & (relevance[image] < last[variant])
        inputs = impute(images[image], removed)
        if noise is not None:
            inputs += noise[image] * removed[:, None]
        return probe.backbone.normalise(inputs)

    probabilities, predicted = probe.ask(len(first), imputed)
    shape = len(ORDERS), len(percentages)
    return probabilities.unflatten(1, shape), predicted.unflatten(1, shape)


def keyed_noise(keys: Sequence[str], shape: Sequence[int], sigma: float) -> Tensor:
    """Return Gaussian noise (B, C, H, W) float32, always the same for images of the same names.

    Args:
        keys: B names of images.
        shape: (C, H, W).
        sigma: standard deviation.
    """
    fields = []
    for key in keys:
        digest = hashlib.sha256(f"{key}/road".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        fields.append(torch.randn(*shape, generator=generator))
    return sigma * torch.stack(fields)


class Road(Family):
    """ROAD: a row per map, order of removal and percentage of removed pixels."""

    name = "road"

    class Settings(spec.Section):
        """The family's keys in a spec."""

        removed: list[Annotated[float, Field(gt=0, lt=100)]] = Field(
            default_factory=lambda: [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0],
            min_length=1,
            description="percentages of removed pixels",
        )
        noise: float = Field(
            0.01, ge=0, description="standard deviation of noise that is added to imputed pixels"
        )

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        images = mapped.images
        noise = None
        if self.settings.noise:
            keys = [row["key"] for row in mapped.rows]
            noise = keyed_noise(keys, tuple(images.shape[1:]), self.settings.noise)
            noise = noise.to(images.device)
        answers = imputed_probabilities(
            mapped.probe, ranks(mapped.large_maps), self.settings.removed, noise
        )
        variants = list(product(ORDERS, self.settings.removed))
        by_row = (answer.flatten(1).tolist() for answer in answers)
        for row, *of_row in zip(mapped.rows, *by_row, strict=True):
            for (order, removed), p, predicted in zip(variants, *of_row, strict=True):
                yield {**row, "order": order, "removed": removed, "p": p, "kept": predicted}
