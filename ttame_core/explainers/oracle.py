"""Maps of the annotated objects: a ceiling for explainers of a classifier that looks at objects."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from ttame_core.backbones.taps import MAP_SIDE
from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.lake.schemas import YARDSTICK


class Oracle(Explainer):
    """Mask of the objects, or the union of their boxes, slightly blurred; NaN without annotations.

    In an image of several labels, the objects are those of the target class.

    The blur, with a sigma of one map pixel, orders the object's pixels from its middle outwards,
    and makes a margin around it.
    """

    name = "oracle"
    role = YARDSTICK
    needs_annotations = True
    may_lack_maps = True
    reads_image = False

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        from torchvision.transforms.functional import gaussian_blur

        height, width = forward.images.shape[-2:]
        size = min(height, MAP_SIDE), min(width, MAP_SIDE)
        count, several = targets.shape
        positions = torch.arange(count).repeat_interleave(several).tolist()
        objects = forward.batch.objects_of(positions, targets.flatten().tolist())
        coarse = torch.nn.functional.adaptive_avg_pool2d(objects[:, None].float(), size)
        maps = gaussian_blur(coarse, kernel_size=[7, 7], sigma=[1.0, 1.0])
        maps[~objects.flatten(1).any(dim=1)] = torch.nan
        return maps.unflatten(0, (count, several))[:, :, 0]
