"""RISE (Petsiuk, Das, Saenko 2018, arXiv 1806.07421): the target's probability under masks."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones.taps import MAP_SIDE
from ttame_core.explainers.base import Explainer, ForwardPass

ROWS = 64  # masked images per forward pass, at least


class Rise(Explainer):
    """RISE (Petsiuk, Das, Saenko 2018, arXiv 1806.07421, equation 6).

    The map is the mean of random masks, weighted by the target's probability under each. For a mask
    (section 3.2), a grid of `grid`² cells, which are 1 with probability `p1` and else 0, is
    upsampled bilinearly to one cell more than the image's size, and cropped at a random shift of
    less than a cell. Where a mask is 0, images are black: they are masked in [0, 1], before
    normalisation, as metrics mask. All images and targets share the masks, which follow from
    `seed`.

    Only cells and shifts stay in memory; masks are made for one forward pass at a time. Bilinear
    upsampling is separable, so a mask is the product of its cells with two thin matrices. Averaging
    these matrices averages the masks: the maps, at most MAP_SIDE high and wide, are exactly the
    averages of full-size maps.
    """

    name = "rise"
    forwards = "masks"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        masks: int = Field(4000, ge=1, description="number of masks; papers take 8000 for ViTs")
        grid: int = Field(7, ge=1, description="cells of a mask along each side")
        p1: float = Field(0.5, gt=0, lt=1, description="probability that a cell is seen")
        seed: spec.Seed = 0

    @override
    def prepare(self) -> None:
        chosen, device = self.settings, self.backbone.device
        size = self.backbone.preprocessing.input_size
        generator = torch.Generator().manual_seed(chosen.seed)
        shape = (chosen.masks, chosen.grid, chosen.grid)
        self.cells = (torch.rand(shape, generator=generator) < chosen.p1).to(device)
        self.strips = [_strips(side, chosen.grid).to(device) for side in size]
        self.shifts = [
            torch.randint(len(strips), (chosen.masks,), generator=generator).to(device)
            for strips in self.strips
        ]
        self.map_size = [min(side, MAP_SIDE) for side in size]
        self.map_strips = [
            F.adaptive_avg_pool1d(strips, side)
            for strips, side in zip(self.strips, self.map_size, strict=True)
        ]

    @override
    @torch.inference_mode()
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        images, backbone = forward.images, self.backbone
        black = backbone.normalise(images.new_zeros(1, images.shape[1], 1, 1))
        light = backbone.normalise(images) - black  # a mask multiplies this: normalising is affine
        maps = images.new_zeros(*targets.shape, self.map_size[0] * self.map_size[1])
        together = -(-ROWS // len(images))
        for chosen in torch.arange(len(self.cells), device=images.device).split(together):
            masks = self.masks(chosen, self.strips)
            inputs = torch.addcmul(black, light, masks[:, None, None])  # (masks, B, 3, H, W)
            with backbone.autocast():
                logits = backbone(inputs.flatten(0, 1))
            every = backbone.probabilities(logits).unflatten(0, (len(chosen), -1))
            weights = every.gather(2, targets.expand(len(chosen), -1, -1))
            small = self.masks(chosen, self.map_strips).flatten(1)
            maps += torch.einsum("mbt,mp->btp", weights, small)
        return maps.unflatten(2, self.map_size) / (self.settings.masks * self.settings.p1)

    def masks(self, chosen: Tensor, strips: list[Tensor]) -> Tensor:
        """Return the masks (M, H, W) in [0, 1] with these numbers (M,)."""
        rows, columns = (
            strip[shift[chosen]] for strip, shift in zip(strips, self.shifts, strict=True)
        )
        return rows.mT @ self.cells[chosen].float() @ columns


def _strips(side: int, grid: int) -> Tensor:
    """Return (cell, grid, side): each cell's share in each pixel of a side, for every shift."""
    cell = -(-side // grid)
    length = (grid + 1) * cell
    large = F.interpolate(torch.eye(grid)[None], length, mode="linear", align_corners=False)[0]
    return large.unfold(1, side, 1).transpose(0, 1)[:cell].contiguous()
