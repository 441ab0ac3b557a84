"""ADCC: average drop, coherency and complexity in one number (Poppi et al. 2021, CVPRW)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.metrics.confidence import drop, masked_probabilities
from ttame_core.metrics.shape import complexity
from ttame_core.metrics.similarity import pearson


def coherency(maps: Tensor, again: Tensor) -> Tensor:
    """(B,) (1 + ρ(map, again)) / 2 in [0, 1], the higher the better (section 3.2).

    maps: (B, h, w). again: the explainer's maps of the images multiplied by `maps`. ρ: Pearson's
    correlation, brought from [−1, 1] to [0, 1] as the paper does.
    """
    return (1 + pearson(maps, again)) / 2


def adcc(coherency: Tensor, complexity: Tensor, drop: Tensor) -> Tensor:
    """3 / (1 / coherency + 1 / (1 − complexity) + 1 / (1 − drop)), in [0, 1] (equation 5).

    All in [0, 1], of any one shape. The harmonic mean of the three: 0 where one of them is at its
    worst.
    """
    parts = torch.stack([coherency, 1 - complexity, 1 - drop])
    return len(parts) / (1 / parts).sum(dim=0)


class Adcc(Family):
    """The three parts of ADCC: a row per map.

    The image is multiplied by the whole map, in [0, 1] as everywhere here. The harmonic mean is
    taken for each image, as the authors' code does, so that it has an interval and slices; that
    of the means over a set is a line of SQL: ADCC(avg(coherency), avg(complexity), avg(drop)).
    """

    name = "adcc"
    reexplains = True

    @override
    def rows(self, mapped: MappedImages) -> Iterator[Row]:
        explainer = mapped.explainer(mapped.backbone)
        again = mapped.explain(explainer, mapped.images * mapped.large_maps[:, None])
        masked = masked_probabilities(mapped.probe, mapped.maps, (100.0,))
        scores = zip(
            mapped.rows,
            coherency(mapped.maps, again).tolist(),
            complexity(mapped.maps).tolist(),
            (drop(mapped.probabilities, masked[:, 0]) / 100).tolist(),
            (~again.isnan().flatten(1).any(dim=1)).tolist(),
            strict=True,
        )
        for row, alike, area, lost, explained in scores:
            if explained:
                yield {**row, "coherency": alike, "complexity": area, "drop": lost}
