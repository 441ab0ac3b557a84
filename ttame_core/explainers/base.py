"""What every explainer is: one class with one verb, `attribute`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ttame_core.attention import AttentionHead
from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch


class NotApplicable(Exception):
    """This explainer cannot explain this backbone or this data set; the message says why."""


@dataclass(frozen=True)
class ForwardPass:
    """One ordinary forward pass over a batch, made once and shared by all explainers.

    images: (B, 3, H, W) float32 in [0, 1]. logits: (B, K) float32. features: (B, C, h, w) per tap,
    of the backbone's precision.
    """

    batch: Batch
    images: Tensor
    logits: Tensor
    features: list[Tensor]


@torch.inference_mode()
def forward_pass(backbone: Backbone, batch: Batch) -> ForwardPass:
    images = batch.float_images(backbone.device)
    with backbone.autocast():
        logits, features = backbone.features(backbone.normalise(images))
    return ForwardPass(batch, images, logits.float(), features)


class Explainer(ABC):
    """Gives explanation maps. A subclass in a module of this package is in the registry.

    name: in specs and in the lake. version: raised when its maps change, so that they are redone.
    needs_head: trained once per backbone. needs_annotations: reads boxes or masks.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs_head: ClassVar[bool] = False
    needs_annotations: ClassVar[bool] = False

    def __init__(self, backbone: Backbone, head: AttentionHead | None = None) -> None:
        self.backbone = backbone

    @abstractmethod
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        """Explanation maps of `targets` (B, T), as (B, T, h, w) float32 of any range.

        The caller min–max normalises them. An image that cannot be explained has a map of NaN.
        """
