"""Opti-CAM against one image's optimisation at a time."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny import PLAIN, TINY_VIT, lively, noise_pass, tiny_backbone
from torch.nn import functional as F

from ttame_core.backbones import Backbone
from ttame_core.explainers.opticam import OptiCam

TARGETS = torch.tensor([[0, 3], [9, 2]])


def _masked_logit(
    backbone: Backbone, image: torch.Tensor, heat: torch.Tensor, target: int
) -> torch.Tensor:
    """Logit of the image under the map, upsampled and scaled to [0, 1]."""
    large = F.interpolate(heat[None, None], (64, 64), mode="bilinear")
    mask = (large - large.min()) / (large.max() - large.min())
    return backbone(backbone.normalise(image[None] * mask))[0, target]


def test_opticam_is_the_optimisation_of_each_image_alone() -> None:
    for backbone in (
        lively(tiny_backbone()),
        lively(tiny_backbone("vit_tiny_patch16_224", **TINY_VIT)),
    ):
        forward = noise_pass(backbone, 2)
        found = OptiCam(backbone, {"iterations": 3}).attribute(forward, TARGETS)
        for i, image in enumerate(forward.images.clone()):
            channels = forward.features[-1][i].clone().clamp(min=0)
            for target, heat in zip(TARGETS[i], found[i], strict=True):
                w = torch.full((len(channels), 1, 1), 0.5, requires_grad=True)
                optimiser = torch.optim.Adam([w], lr=0.1)
                for _ in range(3):
                    optimiser.zero_grad()
                    combined = (w.softmax(dim=0) * channels).sum(dim=0)
                    (-_masked_logit(backbone, image, combined, int(target))).backward()
                    optimiser.step()
                expected = (w.softmax(dim=0) * channels).sum(dim=0).detach()
                assert torch.allclose(heat, expected, rtol=1e-2, atol=1e-4)


def test_opticam_raises_the_masked_images_logit(tiny: Backbone) -> None:
    forward = noise_pass(tiny, 2)
    found = OptiCam(tiny, {"iterations": 10}).attribute(forward, TARGETS)
    equal = forward.features[-1].clamp(min=0).mean(dim=1)
    with torch.inference_mode():
        for i, image in enumerate(forward.images):
            for target, heat in zip(TARGETS[i].tolist(), found[i], strict=True):
                before = _masked_logit(tiny, image, equal[i], target)
                assert _masked_logit(tiny, image, heat, target) > before


def test_the_batch_does_not_matter() -> None:
    backbone = lively(tiny_backbone("vit_tiny_patch16_224", **TINY_VIT))
    forward = noise_pass(backbone, 2)
    explainer = OptiCam(backbone, {"iterations": 5})
    together = explainer.attribute(forward, TARGETS)
    alone = explainer.attribute(forward.first(1), TARGETS[:1])
    assert torch.allclose(alone, together[:1], rtol=1e-3, atol=1e-5)


def test_the_deepest_tap_of_more_than_one_place() -> None:
    backbone = Backbone(tiny_backbone().model, "small", replace(PLAIN, input_size=(32, 32)))
    assert [(tap.height, tap.width) for tap in backbone.taps] == [(4, 4), (2, 2), (1, 1)]
    forward = noise_pass(backbone, 2)
    found = OptiCam(backbone, {"iterations": 2}).attribute(forward, TARGETS)
    assert found.shape == (2, 2, 2, 2)
    assert (found.amax(dim=(2, 3)) > found.amin(dim=(2, 3))).all()
