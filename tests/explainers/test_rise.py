"""RISE against masks that are made and weighed one by one."""

from __future__ import annotations

import pytest
import torch
from tiny import TINY_VIT, noise_pass, tiny_backbone
from torch.nn import functional as F

from ttame_core.backbones import Backbone, Preprocessing
from ttame_core.explainers import rise
from ttame_core.explainers.rise import Rise

TARGETS = torch.tensor([[0, 3], [9, 2]])


@pytest.fixture(scope="module", params=["resnet10t", "vit_tiny_patch16_224"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param, **(TINY_VIT if "vit" in request.param else {}))


def _full_masks(explainer: Rise, side: int) -> list[torch.Tensor]:
    """The paper's recipe, a mask at a time: upsample the grid, crop at the shift."""
    grid = explainer.settings.grid
    cell = -(-side // grid)
    masks = []
    for cells, down, right in zip(explainer.cells, *explainer.shifts, strict=True):
        size = ((grid + 1) * cell,) * 2
        large = F.interpolate(cells[None, None].float(), size, mode="bilinear")[0, 0]
        masks.append(large[down : down + side, right : right + side])
    return masks


def test_rise_is_the_mean_of_masks_by_probability(backbone: Backbone) -> None:
    explainer = Rise(backbone, {"masks": 8, "p1": 0.4, "seed": 3})
    forward = noise_pass(backbone, 2)
    found = explainer.attribute(forward, TARGETS)
    for image, targets, maps in zip(forward.images, TARGETS, found, strict=True):
        total = torch.zeros(2, 64, 64)
        for mask in _full_masks(explainer, 64):
            with torch.inference_mode():
                logits = backbone(backbone.normalise((image * mask)[None]))
            total += logits.softmax(dim=1)[0, targets, None, None] * mask
        expected = F.adaptive_avg_pool2d(total / (8 * 0.4), (56, 56))
        assert torch.allclose(maps, expected, atol=1e-5)


def test_neither_passes_nor_the_batch_matter(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = Rise(backbone, {"masks": 9})
    forward = noise_pass(backbone, 2)
    found = explainer.attribute(forward, TARGETS)
    alone = explainer.attribute(forward.first(1), TARGETS[:1])
    assert torch.allclose(alone, found[:1], atol=1e-5)
    monkeypatch.setattr(rise, "ROWS", 8)
    assert torch.allclose(
        Rise(backbone, {"masks": 9}).attribute(forward, TARGETS), found, atol=1e-5
    )


def test_masks_are_the_seeds(tiny: Backbone) -> None:
    every = torch.arange(400)
    first, again, other = (Rise(tiny, {"masks": 400, "p1": 0.3, "seed": s}) for s in (0, 0, 1))
    masks = first.masks(every, first.strips)
    assert torch.equal(masks, again.masks(every, again.strips))
    assert not torch.allclose(masks, other.masks(every, other.strips))
    assert masks.shape == (400, 64, 64)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert abs(masks.mean() - 0.3) < 0.02
    assert torch.allclose(masks, torch.stack(_full_masks(first, 64)), atol=1e-6)
    small = first.masks(every, first.map_strips)
    assert torch.allclose(small, F.adaptive_avg_pool2d(masks, (56, 56)), atol=1e-6)


class _Corner(torch.nn.Module):
    """Sees class 0 where the upper left quarter is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.ReLU())
        torch.nn.init.constant_(self.body[0].weight, 0.1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        bright = self.body(inputs)[:, :, :5, :8].mean(dim=(1, 2, 3))
        return torch.stack([4 * bright, torch.full_like(bright, 4.8)], dim=1)


def test_rise_finds_what_the_classifier_looks_at() -> None:
    view = Preprocessing((40, 64), 1.0, "center", "bilinear", (0.0,) * 3, (1.0,) * 3)
    backbone = Backbone(_Corner(), "corner", view)
    forward = noise_pass(backbone, 2)
    maps = Rise(backbone, {"masks": 500}).attribute(forward, torch.tensor([[0, 1]] * 2))
    assert maps.shape == (2, 2, 40, 56)
    seen, rest = maps[..., :16, :22], maps[..., 24:, 34:]
    assert (seen[:, 0].mean(dim=(1, 2)) > 1.05 * rest[:, 0].mean(dim=(1, 2))).all()
    assert (seen[:, 1].mean(dim=(1, 2)) < 0.95 * rest[:, 1].mean(dim=(1, 2))).all()
