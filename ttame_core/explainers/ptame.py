"""P-TAME (Ntrougkas, Mezaris, Patras, OJSP 2025, arXiv 2501.17813)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from pydantic import field_validator
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones import Backbone, Tap, file_hash, load_backbone
from ttame_core.explainers.trained import PUBLISHED_LOSS, Trained


class PTame(Trained):
    """P-TAME (Ntrougkas, Mezaris, Patras 2025, OJSP, arXiv 2501.17813, section III).

    The map is the class map of T-TAME's attention mechanism on the features of another, auxiliary
    classifier, which is small. The head is trained so that the explained classifier still
    classifies masked images as before. Of that classifier only the logits are used, so that `taps:
    []` is enough; they must be differentiable with respect to the image. Images are masked before
    normalisation for every family. The auxiliary gets the explained classifier's view, resized and
    normalised for the auxiliary. Its forward pass counts in a map's seconds, not in its passes.

    `recipe: paper` is AdamW at 1e-4, one epoch, and the loss weights for ResNet-50 (the authors'
    code has others for VGG-16 and ViT-B/16). Two parts of that code are left out: a fusion without
    bias, and upsampling in steps of two.
    """

    name = "ptame"
    fixed = PUBLISHED_LOSS
    published: ClassVar[dict[str, Any]] = {
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "weight_decay": 2.43e-4,
        "epochs": 1,
        "lambda_variation": 0.0,
        "lambda_area": 0.839,
        "lambda_confidence": 0.161,
    }
    applies_to = "every backbone with a gradient with respect to its input"

    class Settings(Trained.Settings):
        """The explainer's keys in a spec."""

        auxiliary: spec.Backbone = spec.Backbone(  # the authors' choice: torchvision's weights
            model="resnet18.tv_in1k",
            pretrained=True,
            taps=["layer1", "layer2", "layer3", "layer4"],
        )

        @field_validator("auxiliary")
        @classmethod
        def _ready(cls, auxiliary: spec.Backbone) -> spec.Backbone:
            if auxiliary.fit is not None:
                raise ValueError(
                    "it is not trained here: give it `pretrained: true` or `checkpoint: FILE`"
                )
            if auxiliary.taps == []:
                raise ValueError("the head reads it, so it must have taps")
            return auxiliary

    @override
    def find_taps(self) -> Sequence[Tap]:
        auxiliary: spec.Backbone = self.settings.auxiliary
        content = file_hash(auxiliary.checkpoint) if auxiliary.checkpoint else ""
        self.auxiliary = _load(auxiliary.model_dump_json(), content, self.backbone.device)
        return self.auxiliary.taps

    @override
    def read(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        size = self.auxiliary.preprocessing.input_size
        if tuple(images.shape[-2:]) != tuple(size):
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return self.auxiliary.features(self.auxiliary.normalise(images))[1]


@lru_cache(maxsize=1)  # one shard after another uses it
def _load(settings: str, content: str, device: torch.device) -> Backbone:
    """Load the auxiliary classifier onto a device, or return it where it is the last one loaded.

    Args:
        settings: its section of a spec, as JSON.
        content: hash of its checkpoint's content, so that a changed file is loaded again; '' for
            none.
        device: device for the classifier.
    """
    return load_backbone(spec.Backbone.model_validate_json(settings)).to(device)
