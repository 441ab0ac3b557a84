"""Metrics: one pure function each, on batched tensors, a value per image."""

from ttame_core.metrics.confidence import drop, gain, increase, masked_probabilities
from ttame_core.metrics.localization import THRESHOLDS, box_iou, energy_in_box, pointing_game

__all__ = [
    "THRESHOLDS",
    "box_iou",
    "drop",
    "energy_in_box",
    "gain",
    "increase",
    "masked_probabilities",
    "pointing_game",
]
