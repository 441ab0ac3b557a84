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
    """A classifier, and B images of which metrics change copies to see what it makes of them.

    Attributes:
        backbone: the classifier.
        images: (B, 3, H, W) float32 in [0, 1], unchanged.
        targets: (B,) int64, for each image the class whose probability is wanted.
        batch_size: number of images in a forward pass.
    """

    backbone: Backbone
    images: Tensor
    targets: Tensor
    batch_size: int

    @torch.inference_mode()
    def ask(self, variants: int, make: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the targets' probabilities on changed copies (variants) of each image.

        Memory holds the variants of one forward pass only.

        Args:
            variants: V, number of variants of each image.
            make: function that makes n variants: from n numbers of images, and n numbers of
                variants, both (n,) int64, it returns normalised inputs (n, 3, H, W).

        Returns:
            (B, V) float32 probability of the target, and (B, V) bool, whether it is predicted.
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
