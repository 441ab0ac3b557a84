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
    """Return the coherency (1 + ρ(map, again)) / 2 of maps; higher is better (section 3.2).

    ρ is Pearson's correlation; as in the paper, it is brought from [−1, 1] to [0, 1].

    Args:
        maps: (B, h, w).
        again: (B, h, w), the explainer's maps of the images multiplied by `maps`.

    Returns:
        (B,) in [0, 1].
    """
    return (1 + pearson(maps, again)) / 2


def adcc(coherency: Tensor, complexity: Tensor, drop: Tensor) -> Tensor:
    """Return 3 / (1 / coherency + 1 / (1 − complexity) + 1 / (1 − drop)) (equation 5).

    This is a harmonic mean, which is 0 where one of the three is at its worst.

    Args:
        coherency: values in [0, 1], of any shape.
        complexity: values in [0, 1], of the same shape.
        drop: values in [0, 1], of the same shape.

    Returns:
        Values in [0, 1] of the same shape; higher is better.
    """
    parts = torch.stack([coherency, 1 - complexity, 1 - drop])
    return len(parts) / (1 / parts).sum(dim=0)


class Adcc(Family):
    """The three parts of ADCC: a row per map.

    The image in [0, 1] is multiplied by the whole map. The harmonic mean is taken for each image,
    as in the authors' code, so that it has an interval and can be sliced. That of the means over
    all images is a line of SQL: ADCC(avg(coherency), avg(complexity), avg(drop)).
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
