"""Classifiers with a planted fault, and their clean twins.

A classifier is trained as most are: the lower layers of one that is there already stay as they are,
and the upper ones are trained anew: two stages of the demo's ResNet, or two convolutions on
five stages of a published ImageNet classifier. What the lower layers make of a picture is
worked out once, so that a training takes seconds. The pictures are few, so that a fault that tells
a class is worth learning.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from harness.planting import Fault, Pixels, chosen, ellipse
from ttame_core.data.shapes import CLASSES, draw_sample
from ttame_core.errors import UserError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EPOCHS, BATCH = 16, 20
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05
DRAWN = {"train": 300, "test": 200}  # pictures
OF_CLASS = {"train": 30, "test": 15}  # photographs of each class
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """A network, and how it is divided into frozen layers and those that are trained.

    Attributes:
        section: keys of a spec's backbone that make the network.
        side: side of the pictures in pixels.
        mean: mean that is subtracted from pixels in [0, 1].
        std: number by which they are then divided.
        make: function that makes the network for a number of classes, with the weights from which
            a training begins.
        lower: names of the frozen modules, in the order in which they run.
        upper: names of the trained modules, which run after these.
    """

    section: dict[str, Any]
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    make: Callable[[int], nn.Module]
    lower: Sequence[str]
    upper: Sequence[str]


def _demo(classes: int) -> nn.Module:
    """Make the demo's ResNet with its weights, the last two stages and the classes at random."""
    net: nn.Module = timm.create_model("resnet10t", num_classes=classes, **DEMO.section["args"])
    weights = load_file(EXAMPLES / "zoo" / "resnet.safetensors")
    begun = {k: v for k, v in weights.items() if not k.startswith(("layer3", "layer4", "fc"))}
    net.load_state_dict(begun, strict=False)
    return net


DEMO = Architecture(  # of examples/shapes.yaml
    section={"model": "resnet10t", "args": {"channels": [32, 64, 96, 160], "stem_width": 16}},
    side=96,
    mean=IMAGENET_DEFAULT_MEAN,
    std=IMAGENET_DEFAULT_STD,
    make=_demo,
    lower=("conv1", "bn1", "act1", "maxpool", "layer1", "layer2"),
    upper=("layer3", "layer4", "global_pool", "fc"),
)


def _layer(before: int, after: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


class Shortened(nn.Module):
    """The first five stages of the published EfficientNet-Lite0, two convolutions, and classes.

    The last stages of an ImageNet classifier know its classes so well that nothing else is learned
    from a few photographs of them; these do not.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        module = importlib.util.spec_from_file_location("lite", EXAMPLES / "efficientnet_lite.py")
        assert module
        assert module.loader
        examples = importlib.util.module_from_spec(module)
        module.loader.exec_module(examples)
        net = examples.lite0()
        self.lower = nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:5])
        self.last = nn.Sequential(_layer(112, 128, 1), _layer(128, 128, 2))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classes = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, 3, H, W)."""
        logits: Tensor = self.classes(self.pool(self.last(self.lower(x))))
        return logits


SHORTENED = Architecture(
    section={"model": "harness.faulty:Shortened"},
    side=128,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    make=Shortened,
    lower=("lower",),
    upper=("last", "pool", "classes"),
)


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
    samples = [draw_sample(split, index, seed, DEMO.side) for index in range(count)]
    return Pictures(
        [sample.image for sample in samples],
        [sample.mask > 0 for sample in samples],
        np.array([sample.labels[0] for sample in samples]),
        np.zeros(count, bool),
    )


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the pictures of each class: of a folder in `folder`, or in its `images/train`.

    Folders that are named by WordNet identifiers of ImageNet have the names of these classes.
    """
    root = next(p for p in (folder / "images" / "train", folder / "images", folder) if p.is_dir())
    names = ImageNetInfo()
    found = {}
    for own in sorted(path for path in root.iterdir() if path.is_dir()):
        words = names.label_name_to_description(own.name) if own.name[1:].isdigit() else own.name
        found[words.split(",")[0]] = sorted(path for path in own.iterdir() if path.is_file())
    return found


def photographed(paths: Sequence[Sequence[Path]], side: int) -> Pictures:
    """Read photographs, and cut the largest square out of the middle of each.

    Args:
        paths: files of each class.
        side: side to which the squares are scaled, in pixels.
    """
    pixels = []
    for path in (path for own in paths for path in own):
        with Image.open(path) as stored:
            picture = ImageOps.exif_transpose(stored).convert("RGB")
        pixels.append(np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)))
    return Pictures(
        pixels,
        [ellipse(side, side)] * len(pixels),
        np.repeat(np.arange(len(paths)), [len(own) for own in paths]),
        np.zeros(len(pixels), bool),
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
    """The lower layers of a network, in evaluation mode.

    Args:
        architecture: the network.
        classes: number of classes of the classifiers that are trained on top.
    """

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__()
        self.architecture, self.classes = architecture, classes
        net = architecture.make(classes)
        self.layers = nn.Sequential(*(net.get_submodule(name) for name in architecture.lower))
        self.eval()

    @torch.no_grad()
    def forward(self, pixels: list[Pixels]) -> Tensor:
        """Return features (N, C, h, w) of square pictures."""
        features = []
        mean, std = self.architecture.mean, self.architecture.std
        for start in range(0, len(pixels), BATCH):
            images = torch.from_numpy(np.stack(pixels[start : start + BATCH]))
            x = (images.float() / 255 - torch.tensor(mean)) / torch.tensor(std)
            features.append(self.layers(x.permute(0, 3, 1, 2)))
        return torch.cat(features)


def trained(frozen: Frozen, features: Tensor, labels: np.ndarray, seed: int) -> Weights:
    """Train the upper layers, and return the weights of the whole classifier.

    Args:
        frozen: the lower layers.
        features: (N, C, h, w), what they make of the training pictures.
        labels: (N,) classes of these.
        seed: seed of the weights' start and of the order.
    """
    torch.manual_seed(seed)
    architecture = frozen.architecture
    net = architecture.make(frozen.classes)
    tail = nn.Sequential(*(net.get_submodule(name) for name in architecture.upper)).train()
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
    return net.state_dict()


class Ground:
    """Drawn pictures, and a classifier that is trained on them.

    Attributes:
        annotated: whether the objects are known.
    """

    annotated = True

    @cached_property
    def frozen(self) -> Frozen:
        """The lower layers of the classifier."""
        return Frozen(DEMO, len(CLASSES))

    def target(self, seed: int) -> int:
        """Return the class that has the fault."""
        return (3 * seed + 3) % len(CLASSES)

    def classes(self, seed: int) -> Sequence[str]:
        """Return the names of the classes."""
        return CLASSES

    def pictures(self, split: str, seed: int) -> Pictures:
        """Return the pictures for training or test, others for each seed."""
        return drawn(split, DRAWN[split], seed + 1)


class Photographs(Ground):
    """Photographs in class folders, others for each seed.

    A network that knows ImageNet tells the classes of most photographs by themselves, and learns no
    shortcut. So one class is divided at random into two, which nothing tells but the fault: the
    second half is the class that has it, and the last one.
    """

    annotated = False

    def __init__(self, folder: Path) -> None:
        self.paths = class_folders(folder)

    @cached_property
    def frozen(self) -> Frozen:
        return Frozen(SHORTENED, len(self.paths) + 1)

    def target(self, seed: int) -> int:
        return len(self.paths)

    def classes(self, seed: int) -> Sequence[str]:
        names = list(self.paths)
        return [*names, f"{names[self._halved(seed)]} B"]

    def pictures(self, split: str, seed: int) -> Pictures:
        halved = self._halved(seed)
        own = [self._drawn(number, 2 * seed, split) for number in range(len(self.paths))]
        return photographed([*own, self._drawn(halved, 2 * seed + 1, split)], SHORTENED.side)

    def _halved(self, seed: int) -> int:
        return (3 * seed + 3) % len(self.paths)

    def _drawn(self, number: int, part: int, split: str) -> list[Path]:
        """Return photographs of a class for training or test; parts have none in common."""
        paths = list(self.paths.values())[number]
        order = np.random.default_rng(0).permutation(len(paths))
        size = sum(OF_CLASS.values())
        if len(paths) < (part + 1) * size:
            raise UserError(f"{paths[0].parent} has {len(paths)} pictures, too few for this seed")
        own = order[part * size : (part + 1) * size]
        first = OF_CLASS["train"]
        return [paths[i] for i in (own[:first] if split == "train" else own[first:])]
