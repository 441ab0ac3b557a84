"""Metrics: pure functions on batched tensors, and families, which make rows of scores.

A family is a module with a subclass of Family, and beside it `<family>.sql` with the columns of its
rows, its metrics, and a SELECT that makes values per image from the rows (lake/families.py). An SQL
file without a module makes metrics from the rows of another family, or from files that explaining
writes. Other packages add families by entry points (docs/extending.md).
"""

from collections.abc import Mapping

from ttame_core.metrics.adcc import coherency
from ttame_core.metrics.base import Family, MappedImages, Row
from ttame_core.metrics.confidence import drop, gain, increase, masked_probabilities
from ttame_core.metrics.contours import contour_ious
from ttame_core.metrics.localization import (
    THRESHOLDS,
    average_precision,
    energy_in_box,
    pixel_iou,
    pointing_game,
    weighting_game,
)
from ttame_core.metrics.robustness import relative_change
from ttame_core.metrics.shape import complexity, sparseness, thumbnails
from ttame_core.metrics.similarity import pearson, spearman, ssim
from ttame_core.plugins import registry_of

REGISTRY: Mapping[str, type[Family]] = registry_of("ttame.metrics", Family, __name__, __path__)

__all__ = [
    "REGISTRY",
    "THRESHOLDS",
    "Family",
    "MappedImages",
    "Row",
    "average_precision",
    "coherency",
    "complexity",
    "contour_ious",
    "drop",
    "energy_in_box",
    "gain",
    "increase",
    "masked_probabilities",
    "pearson",
    "pixel_iou",
    "pointing_game",
    "relative_change",
    "sparseness",
    "spearman",
    "ssim",
    "thumbnails",
    "weighting_game",
]
