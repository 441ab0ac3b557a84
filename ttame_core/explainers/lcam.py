"""L-CAM-Img and L-CAM-Fm (Gkartzonika, Gkalelis, Mezaris, VBSD at ECCV 2022, arXiv 2209.11189)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from ttame_core.backbones import Tap
from ttame_core.explainers.base import NotApplicable
from ttame_core.explainers.trained import PUBLISHED_LOSS, Trained
from ttame_core.heads.attention import LinearHead
from ttame_core.perturbation.masking import resize


class LCamImg(Trained):
    """L-CAM-Img (Gkartzonika, Gkalelis, Mezaris 2022, arXiv 2209.11189, section 3).

    The map is the target's class map of one 1×1 convolution on the last tap. In training, the
    sigmoid of the class map of the model truth, upsampled bilinearly, multiplies the image before
    normalisation; the loss is T-TAME's.

    The published networks read ResNet-50's last stage and VGG-16's last convolution. Here the last
    of the backbone's taps is read: for VGG-16 by default the pooling after that convolution, which
    is the authors' variant with 7×7 maps. `recipe: paper` is SGD at 1e-4, and 8 epochs of batches
    of 64 (11 epochs for ResNet-50). Two parts of the authors' code are left out: a learning rate
    that falls by 5 % an epoch (here it is one-cycle), and twice the rate for biases.
    """

    name = "lcam_img"
    mechanism = LinearHead
    fixed = PUBLISHED_LOSS
    published: ClassVar[dict[str, Any]] = {"learning_rate": 1e-4, "batch_size": 64}

    @override
    def find_taps(self) -> Sequence[Tap]:
        return super().find_taps()[-1:]

    @override
    def read(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        return features[-1:]


class LCamFm(LCamImg):
    """L-CAM-Fm (Gkartzonika, Gkalelis, Mezaris 2022, arXiv 2209.11189, section 3).

    The method is L-CAM-Img with another training: the attention of the model truth multiplies the
    last tap's feature maps in place of the image, and the rest of the network continues from them.
    In a transformer, the tokens of patches are multiplied, and other tokens stay. Where the logits
    come from a class token, they do not depend on patches after the last block; there the explainer
    applies only if the backbone's last tap is before its last attention.
    """

    name = "lcam_fm"
    applies_to = "backbones whose logits depend on the last tap's features; not on a class token"

    @override
    def find_taps(self) -> Sequence[Tap]:
        (tap,) = super().find_taps()
        attention = torch.ones(1, 1, tap.height, tap.width, device=self.backbone.device)
        attention.requires_grad_()
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(1, *self.backbone.preprocessing.shape, generator=generator)
        inputs = self.backbone.normalise(noise.to(self.backbone.device))
        with torch.enable_grad():
            logits = self.backbone.masked_at(tap, attention, inputs)
            depends = logits.requires_grad and torch.autograd.grad(logits.max(), attention)[0].any()
        if not depends:
            raise NotApplicable(
                f"the logits of {self.backbone.name} do not depend on the feature maps of "
                f"{tap.name}, so masking them teaches nothing: use lcam_img, or name other taps"
            )
        return [tap]

    @override
    def masked_logits(
        self, images: Tensor, class_maps: Tensor, attention: Tensor, mode: str
    ) -> Tensor:
        (tap,) = self.taps
        mask = resize(attention, (tap.height, tap.width))  # enlarges attention for taps over 56
        return self.backbone.masked_at(tap, mask, self.backbone.normalise(images))
