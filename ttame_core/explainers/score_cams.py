"""Score-CAM and its kin: channels of one tap, weighted by what passes of changed images give."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones import Tap
from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.explainers.cams import (
    GradientCam,
    changed,
    deepest_spatial,
    deepest_with_gradient,
    see,
    weighted,
)
from ttame_core.perturbation.masking import min_max
from ttame_core.seeding import generator_for

AT_ONCE = 32  # variants of an image in a forward pass


class ScoreCam(Explainer):
    """Score-CAM (Wang et al. 2020, arXiv 1910.01279, section 3).

    Each channel of the deepest spatial tap, upsampled and min–max normalised, masks the normalised
    image; the channel's weight is the softmax over channels of the target's logit. The same passes
    serve all targets. Maps equal those of the grad-cam library, which holds all masked images of an
    image in memory at once.
    """

    name = "scorecam"
    forwards = "C"
    applies_to = "backbones with a tap of more than one place"

    @override
    def prepare(self) -> None:
        self.place = deepest_spatial(self.backbone)

    @override
    @torch.inference_mode()
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images)
        every = forward.features[self.place].float()
        return torch.stack(
            [
                weighted(features, self._logits(image, key, features)[:, chosen].softmax(dim=0))
                for image, key, features, chosen in zip(
                    inputs, forward.batch.keys, every, targets, strict=True
                )
            ]
        )

    def _logits(self, image: Tensor, key: str, features: Tensor) -> Tensor:
        """Return logits (C, K) float32 of an image (3, H, W) masked by each channel (C, h, w)."""
        generator, logits = generator_for(key), []
        for channels in features[:, None].split(AT_ONCE):
            masks = nn.functional.interpolate(
                channels, size=image.shape[-2:], mode="bilinear", align_corners=True
            )
            with self.backbone.autocast():
                variants = [
                    self.backbone(image * variant).float()
                    for variant in self.variants(min_max(masks), generator)
                ]
            logits.append(torch.stack(variants).mean(dim=0))
        return torch.cat(logits)

    def variants(self, masks: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the masks by which the image is multiplied; a channel's logits are their means.

        Args:
            masks: (n, 1, H, W) float32 in [0, 1].
            generator: what random variants are drawn from.
        """
        yield masks


class SsCam(ScoreCam):
    """SS-CAM (Wang et al. 2020, arXiv 2006.14255, section 3, noise on the activations).

    Score-CAM with the mean logit of `samples` noisy masks for each channel. Noise follows from the
    key alone.
    """

    name = "sscam"
    forwards = "C * samples"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        samples: int = Field(35, ge=1, description="noisy masks for each channel")
        noise: float = Field(2.0, ge=0, description="standard deviation of the noise on a mask")

    @override
    def variants(self, masks: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(self.settings.samples):
            noise = torch.randn(masks.shape, generator=generator)
            yield masks + self.settings.noise * noise.to(masks)


class IsCam(ScoreCam):
    """IS-CAM (Naidu et al. 2020, arXiv 2010.03023, section 3).

    Score-CAM with the mean logit of `steps` multiples of each mask, the sums of 1/steps, 2/steps …,
    as torchcam has them; the last ones are above 1.
    """

    name = "iscam"
    forwards = "C * steps"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        steps: int = Field(10, ge=1, description="multiples of each mask")

    @override
    def variants(self, masks: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        steps = self.settings.steps
        for step in range(1, steps + 1):
            yield masks * (step * (step + 1) / 2 / steps)


class AblationCam(Explainer):
    """Ablation-CAM (Desai and Ramaswamy 2020, WACV, section 3).

    A channel's weight is the share of the target's logit that is lost where the channel of
    Grad-CAM's tap is set to 0. The passes serve all targets. For networks without ReLU, the
    grad-cam library sets channels to a large negative number; here they are set to 0, as published.
    """

    name = "ablationcam"
    forwards = "C + 1"
    applies_to = GradientCam.applies_to

    @override
    def prepare(self) -> None:
        self.layer, self.tap = deepest_with_gradient(self.backbone)

    @override
    @torch.inference_mode()
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images)
        seen: list[Tensor] = []
        logits = self._logits(inputs, partial(see, seen))
        every = self.tap.feature_map(seen[0]).float()
        maps = []
        for image, features, whole, chosen in zip(inputs, every, logits, targets, strict=True):
            without = torch.cat(
                [
                    self._logits(image.expand(len(c), -1, -1, -1), _Ablated(self.tap, c))
                    for c in torch.arange(len(features), device=inputs.device).split(AT_ONCE)
                ]
            )
            maps.append(weighted(features, ((whole - without) / whole)[:, chosen]))
        return torch.stack(maps)

    def _logits(self, inputs: Tensor, change: Any) -> Tensor:
        with changed(self.layer, self.tap, change), self.backbone.autocast():
            return self.backbone(inputs).float()


class _Ablated:
    """A change of an output (1, …) to n copies, each of which has another channel set to 0."""

    def __init__(self, tap: Tap, channels: Tensor) -> None:
        self.tap, self.channels = tap, channels

    def __call__(self, output: Tensor) -> Tensor:
        output, copies = output.clone(), torch.arange(len(output), device=output.device)
        if self.tap.layout == "NCHW":
            output[copies, self.channels] = 0
        else:
            output[copies, self.tap.prefix :, ..., self.channels] = 0
        return output
