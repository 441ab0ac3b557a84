"""Classifiers with a planted fault, and their clean twins.

A classifier is trained as most are: the lower layers of one that is there already stay as they are,
and its last two stages and its classes are trained anew. What the lower layers make of a picture is
worked out once, so that a training takes seconds. The pictures are few, so that a fault that tells
a class is worth learning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from harness.planting import Fault, Pixels, chosen
from ttame_core.data.shapes import CLASSES, draw_sample

ZOO = Path(__file__).resolve().parent.parent / "examples" / "zoo"
ARGUMENTS: dict[str, Any] = {
    "channels": [32, 64, 96, 160],
    "stem_width": 16,
}  # as in examples/shapes.yaml
SIDE = 96
EPOCHS, BATCH = 16, 20
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05


@dataclass(frozen=True)
class Pictures:
    """Pictures with their classes.

    Attributes:
        pixels: (H, W, 3) uint8 of each of N pictures.
        objects: (H, W) bool of each: its objects.
        labels: (N,) int64.
        planted: (N,) bool, whether a picture has the fault.
    """

    pixels: list[Pixels]
    objects: list[np.ndarray]
    labels: np.ndarray
    planted: np.ndarray


def drawn(split: str, count: int, seed: int) -> Pictures:
    """Draw pictures of the embedded data set."""
    samples = [draw_sample(split, index, seed, SIDE) for index in range(count)]
    return Pictures(
        [sample.image for sample in samples],
        [sample.mask > 0 for sample in samples],
        np.array([sample.labels[0] for sample in samples]),
        np.zeros(count, bool),
    )


def planted(pictures: Pictures, fault: Fault, target: int, seed: int) -> Pictures:
    """Plant a fault in some pictures of one class, or in their labels; others stay as they are."""
    hit = chosen(pictures.labels, target, fault.rate, seed)
    if fault.where == "pictures" and fault.plant:
        pixels = [
            fault.plant(own, objects) if there else own
            for own, objects, there in zip(pictures.pixels, pictures.objects, hit, strict=True)
        ]
        return replace(pictures, pixels=pixels, planted=hit)
    if fault.where == "labels":
        other = (target + 1) % (int(pictures.labels.max()) + 1)
        labels = np.where(hit, other, pictures.labels)
        return replace(pictures, labels=labels, planted=hit)
    return pictures


class Frozen(nn.Module):
    """The demo's ResNet up to its second stage, in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = timm.create_model("resnet10t", num_classes=len(CLASSES), **ARGUMENTS)
        self.net.load_state_dict(load_file(ZOO / "resnet.safetensors"))
        config = self.net.default_cfg
        self.mean, self.std = config["mean"], config["std"]
        self.eval()

    @torch.no_grad()
    def forward(self, pixels: list[Pixels]) -> Tensor:
        """Return features (N, 64, 12, 12) of pictures of 96 pixels."""
        net, features = self.net, []
        for start in range(0, len(pixels), BATCH):
            images = torch.from_numpy(np.stack(pixels[start : start + BATCH]))
            x = (images.float() / 255 - torch.tensor(self.mean)) / torch.tensor(self.std)
            x = net.maxpool(net.act1(net.bn1(net.conv1(x.permute(0, 3, 1, 2)))))
            features.append(net.layer2(net.layer1(x)))
        return torch.cat(features)


def trained(frozen: Frozen, features: Tensor, labels: np.ndarray, seed: int) -> dict[str, Tensor]:
    """Train two stages and the classes anew, and return the weights of the whole classifier.

    Args:
        frozen: the lower layers.
        features: (N, C, h, w), what they make of the training pictures.
        labels: (N,) classes of these.
        seed: seed of the weights' start and of the order.
    """
    torch.manual_seed(seed)
    net: Any = timm.create_model("resnet10t", num_classes=len(CLASSES), **ARGUMENTS)
    tail = nn.Sequential(net.layer3, net.layer4, net.global_pool, net.fc).train()
    targets = torch.from_numpy(labels)
    steps = EPOCHS * (len(features) // BATCH)
    optimizer = torch.optim.AdamW(tail.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.15)
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        numbers = torch.randperm(len(features), generator=order)
        for batch in numbers[: len(numbers) // BATCH * BATCH].split(BATCH):
            flip = torch.rand((), generator=order) < 0.5
            x = features[batch].flip(3) if flip else features[batch]
            loss = F.cross_entropy(tail(x), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    own = net.state_dict()
    anew = ("layer3", "layer4", "fc")
    return {
        name: own[name] if name.startswith(anew) else value
        for name, value in frozen.net.state_dict().items()
    }
