"""The answers of a classifier to changed images: what becomes of the probability of a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ttame_core.backbones import Backbone
from ttame_core.errors import UserError


@dataclass(frozen=True)
class Probe:
    """A classifier that is asked for one class of each of B images, however they are changed.

    Attributes:
        backbone: the classifier.
        images: (B, 3, H, W) float32 in [0, 1], unchanged.
        targets: (B,) int64 classes that are asked for.
        batch_size: images per forward pass.
    """

    backbone: Backbone
    images: Tensor
    targets: Tensor
    batch_size: int

    @torch.inference_mode()
    def ask(self, variants: int, make: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Ask for the targets on variants of each image, of which few exist at a time.

        Args:
            variants: V of each image.
            make: makes inputs (n, 3, H, W), normalised, of the numbers (n,) of images and of
                variants.

        Returns:
            (B, V) float32 probability of the target, and bool, whether the target is predicted.
        """
        count, device = len(self.images) * variants, self.images.device
        probabilities, predicted = [], []
        for chunk in torch.arange(count, device=device).split(self.batch_size):
            image = chunk.div(variants, rounding_mode="floor")
            targets = self.targets[image]
            logits = self.backbone(make(image, chunk % variants))
            if not logits.isfinite().all():
                raise UserError(
                    f"backbone {self.backbone.name} gives logits that are not finite for changed "
                    "images, of which no score can be made: check its weights and its layers"
                )
            answers = self.backbone.probabilities(logits)
            probabilities.append(answers.gather(1, targets[:, None])[:, 0])
            predicted.append(self.backbone.outputs.predict(answers, targets))
        shape = len(self.images), variants
        return torch.cat(probabilities).view(shape), torch.cat(predicted).view(shape)
