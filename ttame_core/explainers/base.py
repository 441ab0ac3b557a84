"""The interface of explainers: a class with a method `attribute`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ttame_core import spec
from ttame_core.backbones import Backbone, logits_of
from ttame_core.data.loader import Batch
from ttame_core.heads.attention import AttentionHead
from ttame_core.lake.schemas import RIVAL


class NotApplicable(Exception):
    """The error for an explainer that cannot explain a backbone or a data set, with the reason."""


@dataclass(frozen=True)
class ForwardPass:
    """A forward pass over a batch, which is made once and shared by all explainers.

    Attributes:
        batch: B images with their keys, labels, boxes and masks.
        images: (B, 3, H, W) float32 in [0, 1].
        logits: (B, K) float32, from a float32 pass.
        features: (B, C, h, w) for each tap, from a pass in the backbone's precision.
    """

    batch: Batch
    images: Tensor
    logits: Tensor
    features: list[Tensor]

    def first(self, count: int) -> ForwardPass:
        """Return the part for the first `count` images."""
        if count >= len(self.batch):
            return self
        features = [f[:count] for f in self.features]
        return ForwardPass(
            self.batch.first(count), self.images[:count], self.logits[:count], features
        )


@torch.inference_mode()
def forward_pass(backbone: Backbone, batch: Batch, images: Tensor | None = None) -> ForwardPass:
    """Run one forward pass over a batch.

    Features have the backbone's precision. Logits are always from a float32 pass, because metrics
    compare them with those of masked images; where the precision is lower, a second pass is made.

    Args:
        backbone: the classifier.
        batch: B images with their keys, labels, boxes and masks.
        images: (B, 3, H, W) float32 in [0, 1]; None for the batch's own.
    """
    if images is None:
        images = batch.float_images(backbone.device)
    inputs = backbone.normalise(images)
    with backbone.autocast():
        logits, features = backbone.features(inputs)
    if backbone.precision is not torch.float32:
        logits = backbone(inputs)
    return ForwardPass(batch, images, logits.float(), features)


LARGEST = 224  # side of a map, in pixels, at most


def bounded(maps: Tensor) -> Tensor:
    """Shrink maps (…, h, w) with a side above 224 pixels (LARGEST) to that, by averaging areas."""
    height, width = maps.shape[-2:]
    if max(height, width) <= LARGEST:
        return maps
    size = min(height, LARGEST), min(width, LARGEST)
    shrunk = nn.functional.adaptive_avg_pool2d(maps.reshape(-1, 1, height, width), size)
    return shrunk.reshape(*maps.shape[:-2], *size)


class Explainer(ABC):
    """A method that makes explanation maps of a backbone's decisions.

    The registry holds the subclasses in modules of this package, and those that entry points of the
    group `ttame.explainers` name.

    Attributes:
        name: the explainer's method in specs, and its default name in the lake.
        role: RIVAL, or YARDSTICK for explainers that rivals are measured by and that have no ranks.
        version: increase it when the maps change, so that they are made again.
        needs_head: whether a head is trained for each backbone.
        needs_annotations: whether boxes or masks are read.
        may_lack_maps: whether an image can have no map (NaN); with other explainers that is an
            error, of which the record tells.
        reads_image: whether maps depend on the image and the classifier.
        explains_again: whether the explainer can explain changed images and classifiers.
        forwards: forward passes through the classifier for a map, beyond the pass that all
            explainers share: a formula of settings and of C, the number of the tap's channels,
            taps, the number of taps, and blocks, the number of a transformer's blocks.
        backwards: backward passes for a map, as such a formula.
        applies_to: words for the backbones that can be explained.
        Settings: class of the explainer's keys in a spec.
        backbone: the backbone to explain.
        settings: the keys as an instance of `Settings`.

    Args:
        backbone: the backbone to explain.
        settings: the explainer's keys in a spec, by name; missing ones have their defaults.
        head: trained head, for explainers that have one.

    Raises:
        NotApplicable: the backbone cannot be explained.
    """

    name: ClassVar[str]
    role: ClassVar[str] = RIVAL
    version: ClassVar[int] = 1
    needs_head: ClassVar[bool] = False
    needs_annotations: ClassVar[bool] = False
    may_lack_maps: ClassVar[bool] = False
    reads_image: ClassVar[bool] = True
    explains_again: ClassVar[bool] = True
    forwards: ClassVar[str] = "0"
    backwards: ClassVar[str] = "0"
    applies_to: ClassVar[str] = "every backbone"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

    def __init__(
        self,
        backbone: Backbone,
        settings: dict[str, Any] | None = None,
        head: AttentionHead | None = None,
    ) -> None:
        self.backbone = backbone
        self.settings: Any = self.Settings.model_validate(settings or {})
        if self.backwards != "0" and not backbone.outputs.differentiable:
            raise NotApplicable(no_gradient(backbone, self.name))
        self.prepare()

    def prepare(self) -> None:  # noqa: B027 (most have nothing to do)
        """Prepare for the backbone; the constructor calls this method.

        Raises:
            NotApplicable: the backbone cannot be explained.
        """

    @classmethod
    def identity(cls, settings: dict[str, Any]) -> Any:
        """Return the part of the settings on which maps depend, with the content of named files.

        The result is a part of the maps' fingerprints.
        """
        return settings

    @abstractmethod
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        """Make explanation maps.

        Args:
            forward: a forward pass over B images.
            targets: (B, T) int64 class indices.

        Returns:
            Maps (B, T, h, w) float32 of any range, which the caller min–max normalises. An image
            that cannot be explained has a map of NaN.
        """


def no_gradient(backbone: Backbone, method: str) -> str:
    """Return the reason why a method does not apply to a classifier that gives no gradients."""
    return (
        f"{backbone.name} gives no gradients (its forward pass runs under no_grad, or is quantised)"
        f", and {method} needs them"
    )


@dataclass
class Cost:
    """The seconds, and the numbers of images that passed the classifier forward and backward."""

    seconds: float = 0.0
    forward: int = 0
    backward: int = 0


@contextmanager
def measure(backbone: Backbone) -> Iterator[Cost]:
    """Yield the cost of this context's use of a backbone, which is complete when it ends."""
    cost = Cost()

    def back(gradient: Tensor) -> None:
        cost.backward += len(gradient)

    def forth(module: nn.Module, args: Any, output: Any) -> None:
        logits = logits_of(output)
        cost.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(back)

    _wait(backbone.device)
    start = time.perf_counter()
    hook = backbone.model.register_forward_hook(forth)
    try:
        yield cost
    finally:
        hook.remove()
        _wait(backbone.device)
        cost.seconds = time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
