"""Insertion and deletion curves (RISE, Petsiuk et al. 2018, section 4.3).

A curve is the target's probability after steps in which pixels change, the most relevant first and
equally many in each step: from a baseline to the image (insertion), or the other way (deletion).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ttame_core import spec
from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.masking import Fill, fill, ranks

Curve = Literal["insertion", "deletion"]


@torch.inference_mode()
def curve_probabilities(
    probe: Probe, relevance: Tensor, curve: Curve, baseline: Fill, steps: int
) -> Tensor:
    """Return the probability of the targets before the first and after each of S steps.

    After step s, the pixels of rank below s · HW / S are changed.

    Args:
        probe: B images with their targets, and the classifier.
        relevance: (B, H, W) int64, `masking.ranks` of the maps at the images' size.
        curve: `insertion`, from the baseline to the image, or `deletion`, the other way.
        baseline: fill that makes the baseline from an image: `zero`, `mean` or `blur`.
        steps: S, the number of steps.

    Returns:
        (B, S + 1) float32 in [0, 1].
    """
    pixels = relevance[0].numel()
    stages = (relevance * steps).div_(pixels, rounding_mode="floor")[:, None]
    before, after = probe.images, fill(probe.images, baseline)
    if curve == "insertion":
        before, after = after, before
    before, after = probe.backbone.normalise(before), probe.backbone.normalise(after)

    def changed(image: Tensor, step: Tensor) -> Tensor:
        return torch.where(stages[image] < step[:, None, None, None], after[image], before[image])

    probabilities, _ = probe.ask(steps + 1, changed)
    return probabilities


def area_under(curves: Tensor) -> Tensor:
    """Return the areas (B,) under curves (B, S + 1) over [0, 1], by the trapezoid rule."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1), dim=1)


class Curves(Family):
    """Insertion and deletion: a row per map, curve and baseline."""

    name = "curves"

    class Settings(spec.Section):
        """The family's keys in a spec."""

        steps: int = Field(32, ge=1, description="number of steps of a curve")
        insertion: list[Fill] = Field(
            default_factory=lambda: ["blur"],  # type: ignore[arg-type]
            description="baselines into which pixels are inserted",
        )
        deletion: list[Fill] = Field(
            default_factory=lambda: ["zero"],  # type: ignore[arg-type]
            description="baselines that replace deleted pixels",
        )

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        relevance = ranks(mapped.large_maps)
        for curve in ("insertion", "deletion"):
            for baseline in dict.fromkeys(getattr(self.settings, curve)):
                steps = self.settings.steps
                curves = curve_probabilities(mapped.probe, relevance, curve, baseline, steps)
                areas = area_under(curves).tolist()
                for row, area, values in zip(mapped.rows, areas, curves.tolist(), strict=True):
                    own = {"curve": curve, "fill": baseline, "auc": area, "probabilities": values}
                    yield {**row, **own}
