"""Frozen classifiers, with their weights, preprocessing and feature taps."""

from ttame_core.backbones.backbone import Backbone, load_backbone, preprocessing_of
from ttame_core.backbones.checkpoints import file_hash
from ttame_core.backbones.models import create_model, own_weights
from ttame_core.backbones.outputs import Outputs, logits_of
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.backbones.taps import Tap

__all__ = [
    "Backbone",
    "Outputs",
    "Preprocessing",
    "Tap",
    "create_model",
    "file_hash",
    "load_backbone",
    "logits_of",
    "own_weights",
    "preprocessing_of",
]
