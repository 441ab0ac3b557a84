"""The same things as one would first write them: the head from the paper's figure, and RISE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.heads.attention import AttentionHead
from ttame_core.perturbation.masking import masked
from ttame_core.training.head import masking_mode
from ttame_core.training.losses import area_loss, variation_loss


def textbook_maps(head: AttentionHead, features: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Branches upsampled, concatenated, fused to all classes; then the target's map is taken."""
    branches = [
        F.interpolate(F.relu(bn(conv(x)) + x), head.map_size, mode="bilinear")
        for conv, bn, x in zip(head.convs, head.bns, features, strict=True)
    ]
    maps = head.fuser(torch.cat(branches, dim=1))
    return maps[torch.arange(len(maps)), targets][:, None]


def textbook_step(
    backbone: Backbone, head: AttentionHead, images: Tensor, settings: spec.Training
) -> Tensor:
    """The loss of one training step."""
    logits, features = backbone.features(backbone.normalise(images))
    truth = logits.argmax(dim=1)
    attention = torch.sigmoid(textbook_maps(head, features, truth))
    mode = masking_mode(backbone, settings)
    masked_logits = backbone(masked(images, attention, mode, backbone.normalise))
    return (
        settings.lambda_variation * variation_loss(attention[:, 0])
        + settings.lambda_area * area_loss(attention[:, 0], settings.area_exponent)
        + settings.lambda_confidence * F.cross_entropy(masked_logits, truth)
    )


@torch.inference_mode()
def rise(backbone: Backbone, images: Tensor, masks: int, batch_size: int) -> Tensor:
    """RISE (Petsiuk et al. 2018): random masks, weighted by the class's probability under them."""
    inputs = backbone.normalise(images)
    targets = backbone(inputs).argmax(dim=1)
    height, width = images.shape[-2:]
    cell = -(-height // 7), -(-width // 7)
    maps = images.new_zeros(len(images), height, width)
    for start in range(0, masks, batch_size):
        count = min(batch_size, masks - start)
        grid = (torch.rand(count, 1, 8, 8) < 0.5).float()
        large = F.interpolate(grid, (8 * cell[0], 8 * cell[1]), mode="bilinear")
        mask = large[:, :, :height, :width]
        for i, image in enumerate(images):
            p = backbone(backbone.normalise(image[None] * mask)).softmax(dim=1)[:, targets[i]]
            maps[i] += (p[:, None, None] * mask[:, 0]).sum(dim=0)
    return maps
