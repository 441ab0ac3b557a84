"""AD, IC and AG against hand-computed values and a plain numpy version."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from tiny import tiny_backbone

from ttame_core.metrics import drop, gain, increase, masked_probabilities
from ttame_core.metrics.probe import Probe


def test_by_hand() -> None:
    p = torch.tensor([0.8, 0.5, 0.0, 1.0])
    q = torch.tensor([0.2, 0.75, 0.3, 0.4])
    assert torch.allclose(drop(p, q), torch.tensor([75.0, 0.0, 0.0, 60.0]))
    assert increase(p, q).tolist() == [0, 100, 100, 0]
    assert torch.allclose(gain(p, q), torch.tensor([0.0, 50.0, 30.0, 0.0]))


def test_masked_probabilities_one_image_at_a_time() -> None:
    """Percentile, masking and normalisation written out in numpy."""
    backbone = tiny_backbone()
    torch.manual_seed(3)
    images, maps = torch.rand(5, 3, 64, 64), torch.rand(5, 8, 8)
    targets, keep = torch.tensor([1, 2, 3, 4, 5]), (100.0, 50.0, 15.0)
    found = masked_probabilities(Probe(backbone, images, targets, 4), maps, keep)
    for image, heat, target, row in zip(images, maps, targets, found, strict=True):
        large = np.asarray(
            torch.nn.functional.interpolate(heat[None, None], size=64, mode="bilinear")
        )[0, 0].astype(np.float64)
        for percentage, value in zip(keep, row, strict=True):
            mask = np.where(large >= np.percentile(large, 100 - percentage), large, 0)
            inputs = (image.numpy() * mask - 0.5) / 0.25
            with torch.no_grad():
                logits = backbone.model(torch.from_numpy(inputs[None]).float())
            expected = logits.softmax(dim=1)[0, target]
            assert torch.isclose(value, expected, atol=2e-5)


def test_upsampling_is_that_of_pillow_nearly() -> None:
    """align_corners=False: the corner of the map is the corner of the image."""
    from ttame_core.perturbation.masking import resize

    heat = torch.rand(1, 1, 4, 4)
    pillow = Image.fromarray(heat[0, 0].numpy()).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.allclose(resize(heat, (64, 64))[0, 0].numpy(), np.asarray(pillow), atol=1e-5)
