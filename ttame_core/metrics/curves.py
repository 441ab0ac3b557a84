"""Insertion and deletion curves (RISE, Petsiuk et al. 2018, section 4.3).

The target's probability while the image's pixels, the most relevant first, are put into a baseline
or taken out for it, an equal number of them in each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.perturbation.masking import Fill, fill, ranks

Curve = Literal["insertion", "deletion"]


@torch.inference_mode()
def curve_probabilities(
    backbone: Backbone,
    images: Tensor,
    relevance: Tensor,
    targets: Tensor,
    curve: Curve,
    baseline: Fill,
    steps: int,
    batch_size: int,
) -> Tensor:
    """Softmax of the target before the first and after each of S steps.

    images: (B, 3, H, W) in [0, 1]. relevance: (B, H, W) int64, `masking.ranks` of the maps at the
    images' size. targets: (B,). Returns (B, S + 1) float32. After step s, the pixels of rank below
    s · HW / S are changed, in `insertion` from the baseline to the image, in `deletion` the other
    way round. Only batch_size of the B · (S + 1) variants exist at a time.
    """
    pixels = relevance[0].numel()
    stages = (relevance * steps).div_(pixels, rounding_mode="floor")[:, None]
    before, after = images, fill(images, baseline)
    if curve == "insertion":
        before, after = after, before
    before, after = backbone.normalise(before), backbone.normalise(after)
    found = []
    for chunk in torch.arange(len(images) * (steps + 1), device=images.device).split(batch_size):
        image = chunk.div(steps + 1, rounding_mode="floor")
        changed = stages[image] < (chunk % (steps + 1))[:, None, None, None]
        probabilities = backbone(torch.where(changed, after[image], before[image])).float()
        found.append(probabilities.softmax(dim=1).gather(1, targets[image, None])[:, 0])
    return torch.cat(found).view(len(images), steps + 1)


def area_under(curves: Tensor) -> Tensor:
    """(B,) area under curves (B, S + 1) whose steps span [0, 1], by the trapezoid rule."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1), dim=1)


class Curves(Family):
    """Insertion and deletion: a row per map, curve and baseline."""

    name = "curves"

    class Settings(spec.Section):
        """The keys of a spec that set it."""

        steps: int = Field(32, ge=1, description="of equally many pixels, per curve")
        insertion: list[Fill] = Field(
            default_factory=lambda: ["blur"],  # type: ignore[arg-type]
            description="baselines that pixels are put into",
        )
        deletion: list[Fill] = Field(
            default_factory=lambda: ["zero"],  # type: ignore[arg-type]
            description="baselines that pixels are taken out for",
        )

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        relevance = ranks(mapped.large_maps)
        for curve in ("insertion", "deletion"):
            for baseline in dict.fromkeys(getattr(self.settings, curve)):
                curves = curve_probabilities(
                    mapped.backbone,
                    mapped.images,
                    relevance,
                    mapped.targets,
                    curve,
                    baseline,
                    self.settings.steps,
                    mapped.batch_size,
                )
                areas = area_under(curves).tolist()
                for row, area, values in zip(mapped.rows, areas, curves.tolist(), strict=True):
                    found = {"curve": curve, "fill": baseline, "auc": area, "probabilities": values}
                    yield {**row, **found}
