"""Opti-CAM (Zhang, Torres, Sicre, Avrithis, Ayache 2024, arXiv 2301.07002)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from ttame_core import spec
from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.explainers.cams import deepest_spatial
from ttame_core.explainers.gradients import target_gradients
from ttame_core.perturbation.masking import min_max, resize


class OptiCam(Explainer):
    """Opti-CAM (Zhang et al. 2024, arXiv 2301.07002, section 3.2).

    The map is the combination of the deepest spatial tap's channels that keeps most of the target's
    logit as a mask: the sum of the channels (negative values set to 0), weighted by softmax(w).
    Upsampled and min–max normalised, it multiplies the image in [0, 1], and Adam maximises the
    target's logit, starting from equal weights. Each image and target has its own weights. Losses
    are added up and Adam works element by element, so that a map does not depend on the others in
    its batch. The authors stop early by the batch's loss, which is left out here.
    """

    name = "opticam"
    version = 2
    forwards, backwards = "iterations", "iterations"
    applies_to = "backbones with a tap of more than one place"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        iterations: int = Field(100, ge=1)
        learning_rate: float = Field(0.1, gt=0)

    @override
    def prepare(self) -> None:
        self.place = deepest_spatial(self.backbone)

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        images = forward.images.clone()
        channels = forward.features[self.place].clone().float().relu()
        maps = [self._optimise(images, channels, column) for column in targets.T]
        return torch.stack(maps, dim=1)

    def _optimise(self, images: Tensor, channels: Tensor, targets: Tensor) -> Tensor:
        """Return maps (B, h, w) for one target of each image."""
        with torch.enable_grad():
            weights = channels.new_zeros(channels.shape[:2]).requires_grad_()
            optimiser = torch.optim.Adam([weights], self.settings.learning_rate)
            for _ in range(self.settings.iterations):
                mask = min_max(resize(_combined(weights, channels)[:, None], images.shape[-2:]))
                logits = self.backbone(self.backbone.normalise(images * mask))
                ((gradient,),) = target_gradients(logits, targets[:, None], [weights])
                weights.grad = -gradient
                optimiser.step()
        return _combined(weights.detach(), channels)


def _combined(weights: Tensor, channels: Tensor) -> Tensor:
    """Return the sum (B, h, w) of channels (B, C, h, w) weighted by the softmax of (B, C)."""
    return torch.einsum("bc,bchw->bhw", weights.softmax(dim=1), channels)
