"""Faithfulness by confidence: average drop, increase in confidence, average gain.

p is the probability of the target on the whole image, and p′ that on the image of which
only the map's most relevant pixels are left. Each function returns a value for every image, in
percent, whose mean is the metric. `lake/query/sql/macros.sql` has the same three in SQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor
from typing_extensions import override

from ttame_core import spec
from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.masking import Fill, filled, keep_most_relevant, resize


def drop(p: Tensor, p_masked: Tensor) -> Tensor:
    """Return 100 · max(0, p − p′) / p for AD (Chattopadhay et al. 2018); lower is better.

    Args:
        p: probabilities in [0, 1], of any shape.
        p_masked: p′, of the same shape.

    Returns:
        Percentages of the same shape; 0 where p is 0.
    """
    return 100 * torch.where(p > 0, (p - p_masked).clamp(min=0) / p.where(p > 0, 1), 0)


def increase(p: Tensor, p_masked: Tensor) -> Tensor:
    """Return 100 where p′ > p, else 0, for IC (Chattopadhay et al. 2018); higher is better.

    Args:
        p: probabilities in [0, 1], of any shape.
        p_masked: p′, of the same shape.
    """
    return 100 * (p_masked > p).to(p.dtype)


def gain(p: Tensor, p_masked: Tensor) -> Tensor:
    """Return 100 · max(0, p′ − p) / (1 − p) for AG (Opti-CAM, 2024); higher is better.

    Args:
        p: probabilities in [0, 1], of any shape.
        p_masked: p′, of the same shape.

    Returns:
        Percentages of the same shape; 0 where p is 1.
    """
    return 100 * torch.where(p < 1, (p_masked - p).clamp(min=0) / (1 - p).where(p < 1, 1), 0)


@torch.inference_mode()
def masked_probabilities(
    probe: Probe, maps: Tensor, keep: Sequence[float], fill: Fill = "zero"
) -> Tensor:
    """Return the probability of the targets on masked images.

    A map is upsampled bilinearly, its pixels below the (100 − v)th percentile are set to 0, and the
    image is multiplied by it before normalisation, whatever the backbone's family is. The fill is
    added where the map is below 1 (`masking.filled`).

    Args:
        probe: B images with their targets, and the classifier.
        maps: (B, h, w) in [0, 1].
        keep: V percentages v of pixels that are kept, in (0, 100].
        fill: what replaces masked pixels: `zero`, `mean` or `blur`.

    Returns:
        (B, V) float32 in [0, 1].
    """
    images, backbone = probe.images, probe.backbone
    variants = keep_most_relevant(resize(maps[:, None], images.shape[-2:])[:, 0], keep)
    inputs = backbone.normalise(filled(images, variants, fill).flatten(0, 1))
    logits = torch.cat([backbone(chunk) for chunk in inputs.split(probe.batch_size)])
    probabilities = backbone.probabilities(logits).unflatten(0, variants.shape[:2])
    return probabilities.gather(2, probe.targets[:, None, None].expand(-1, len(keep), 1))[..., 0]


class Confidence(Family):
    """AD, IC and AG: a row per map, kept percentage and fill."""

    name = "confidence"

    class Settings(spec.Section):
        """The family's keys in a spec."""

        keep: list[float] = Field(
            default_factory=lambda: [100.0, 50.0, 15.0], description="percentages of kept pixels"
        )
        fills: list[Fill] = Field(
            default_factory=lambda: ["zero"],  # type: ignore[arg-type]
            min_length=1,
            description="fills that replace masked pixels; only zero is as published",
        )

        @field_validator("keep")
        @classmethod
        def _percentages(cls, keep: list[float]) -> list[float]:
            if not keep or not all(0 < k <= 100 for k in keep) or len(set(keep)) != len(keep):
                raise ValueError("percentages must be distinct, above 0 and at most 100")
            return keep

        @field_validator("fills")
        @classmethod
        def _distinct(cls, fills: list[Fill]) -> list[Fill]:
            return list(dict.fromkeys(fills))

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        whole = mapped.probabilities.tolist()
        for fill in self.settings.fills:
            masked = masked_probabilities(mapped.probe, mapped.maps, self.settings.keep, fill)
            for row, p, values in zip(mapped.rows, whole, masked.tolist(), strict=True):
                for keep, p_masked in zip(self.settings.keep, values, strict=True):
                    yield {**row, "keep": keep, "fill": fill, "p": p, "p_masked": p_masked}
