"""Maps of the image's edges: a floor for explainers that are more than edge detectors."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from ttame_core.backbones.taps import MAP_SIDE
from ttame_core.explainers.base import Explainer, ForwardPass
from ttame_core.lake.schemas import YARDSTICK


class Edges(Explainer):
    """The edges of the image: Sobel magnitude of the luminance, slightly blurred.

    The classifier plays no part, so an explainer that scores no better than this one finds no more
    than edges. Adebayo et al. 2018 (arXiv 1810.03292, section 5) found that saliency maps look like
    edges. The map is averaged over areas to at most 56×56, then blurred with a sigma of one map
    pixel.
    """

    name = "edges"
    role = YARDSTICK

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        from torchvision.transforms.functional import gaussian_blur, rgb_to_grayscale

        height, width = forward.images.shape[-2:]
        down = forward.images.new_tensor([[-1, -2, -1], [0, 0, 0], [1, 2, 1]])
        kernels = torch.stack([down, down.T])[:, None]
        luminance = rgb_to_grayscale(forward.images)
        padded = torch.nn.functional.pad(luminance, (1, 1, 1, 1), mode="reflect")
        slopes = torch.nn.functional.conv2d(padded, kernels)
        magnitude = slopes.norm(dim=1, keepdim=True)
        size = min(height, MAP_SIDE), min(width, MAP_SIDE)
        coarse = torch.nn.functional.adaptive_avg_pool2d(magnitude, size)
        maps = gaussian_blur(coarse, kernel_size=[7, 7], sigma=[1.0, 1.0])
        return maps.expand(-1, targets.shape[1], -1, -1)
