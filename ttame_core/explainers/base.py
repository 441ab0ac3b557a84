"""The interface of explainers: one class with one verb, `attribute`."""

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
    """This explainer cannot explain this backbone or this data set; the message says why."""


@dataclass(frozen=True)
class ForwardPass:
    """One ordinary forward pass over a batch, made once and shared by all explainers.

    Attributes:
        batch: B images with what is known of them.
        images: (B, 3, H, W) float32 in [0, 1].
        logits: (B, K) float32, of a float32 pass.
        features: (B, C, h, w) per tap, of the backbone's precision.
    """

    batch: Batch
    images: Tensor
    logits: Tensor
    features: list[Tensor]

    def first(self, count: int) -> ForwardPass:
        """Return the part of the first `count` images."""
        if count >= len(self.batch):
            return self
        features = [f[:count] for f in self.features]
        return ForwardPass(
            self.batch.first(count), self.images[:count], self.logits[:count], features
        )


@torch.inference_mode()
def forward_pass(backbone: Backbone, batch: Batch, images: Tensor | None = None) -> ForwardPass:
    """Run one forward pass over a batch.

    Features are of the backbone's precision. Logits are always those of a float32 pass, with which
    metrics compare those of masked images: where the precision is lower, that is a second pass.

    Args:
        backbone: the classifier.
        batch: B images with what is known of them.
        images: (B, 3, H, W) float32 in [0, 1], in place of the batch's own.
    """
    if images is None:
        images = batch.float_images(backbone.device)
    inputs = backbone.normalise(images)
    with backbone.autocast():
        logits, features = backbone.features(inputs)
    if backbone.precision is not torch.float32:
        logits = backbone(inputs)
    return ForwardPass(batch, images, logits.float(), features)


LARGEST = 224  # pixels, side of a map that is kept


def bounded(maps: Tensor) -> Tensor:
    """Average maps (…, h, w) of more than 224 pixels a side over areas, down to 224."""
    height, width = maps.shape[-2:]
    if max(height, width) <= LARGEST:
        return maps
    size = min(height, LARGEST), min(width, LARGEST)
    shrunk = nn.functional.adaptive_avg_pool2d(maps.reshape(-1, 1, height, width), size)
    return shrunk.reshape(*maps.shape[:-2], *size)


class Explainer(ABC):
    """A method that gives explanation maps.

    A subclass in a module of this package, or in an entry point of the group `ttame.explainers`, is
    in the registry.

    name: in specs, and in the lake unless the spec says otherwise. role: RIVAL, or YARDSTICK for
    what rivals are measured by, which wins and loses nothing. version: raised when its maps change,
    so that they are redone. needs_head: trained once per backbone. needs_annotations: reads
    boxes or masks. reads_image: its maps depend on the image and the classifier. explains_again: it
    has maps of other images and classifiers than those it was made for. forwards, backwards: passes
    through the classifier per map, beyond the forward pass that all share, as a formula of settings
    and of C, the channels of its tap. applies_to: what it can explain, in words. Settings: its own
    keys in a spec.

    `settings` are by name what the spec says, `Settings` with its defaults where nothing is given.
    The constructor raises NotApplicable where the backbone cannot be explained.
    """

    name: ClassVar[str]
    role: ClassVar[str] = RIVAL
    version: ClassVar[int] = 1
    needs_head: ClassVar[bool] = False
    needs_annotations: ClassVar[bool] = False
    reads_image: ClassVar[bool] = True
    explains_again: ClassVar[bool] = True
    forwards: ClassVar[str] = "0"
    backwards: ClassVar[str] = "0"
    applies_to: ClassVar[str] = "every backbone"

    class Settings(spec.Section):
        """The keys of a spec that set it."""

    def __init__(
        self,
        backbone: Backbone,
        settings: dict[str, Any] | None = None,
        head: AttentionHead | None = None,
    ) -> None:
        self.backbone = backbone
        self.settings: Any = self.Settings.model_validate(settings or {})
        self.prepare()

    def prepare(self) -> None:  # noqa: B027 (most have nothing to do)
        """Do what is done once for a backbone.

        Raises:
            NotApplicable: the backbone cannot be explained.
        """

    @classmethod
    def identity(cls, settings: dict[str, Any]) -> Any:
        """Return what tells maps of these settings from others: content, where they name a file."""
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


@dataclass
class Cost:
    """Seconds, and numbers of images that went through the classifier forward and backward."""

    seconds: float = 0.0
    forward: int = 0
    backward: int = 0


@contextmanager
def measure(backbone: Backbone) -> Iterator[Cost]:
    """Measure what is done with the backbone in this context; the cost is complete at its end."""
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
