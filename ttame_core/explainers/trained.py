"""The part that explainers share whose head is trained once per backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones import Backbone, Tap
from ttame_core.backbones.taps import map_size
from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable
from ttame_core.heads.attention import AttentionHead, Head
from ttame_core.perturbation.masking import masked, masked_both_ways

# The loss of TAME, L-CAM and P-TAME, whatever the spec's own constants are.
PUBLISHED_LOSS = {
    "objective": "cross_entropy",
    "map": "class",
    "masking": "raw",
    "lambda_variation": 0.01,
    "lambda_area": 2.0,
    "lambda_confidence": 1.5,
    "area_exponent": 0.3,
    "noise": 0.0,
}


class Trained(Explainer):
    """The target's map from a trained head.

    mechanism: the kind of head. fixed: keys of a spec's `training` that are the method itself, and
    so not the spec's to say. published: what its paper has beside, with `recipe: paper`.
    takes_given: whether a backbone's `head` is one of this kind. A subclass says besides where the
    head reads (`find_taps`, `read`) and what is masked in training (`masked_logits`).

    head: trained; without one it can be trained, and has no maps.
    """

    needs_head = True
    mechanism: ClassVar[type[Head]] = AttentionHead
    fixed: ClassVar[dict[str, Any]] = {}
    published: ClassVar[dict[str, Any]] = {}
    takes_given: ClassVar[bool] = False
    applies_to = "backbones with taps"

    class Settings(spec.Section):
        """The keys of a spec that set it."""

        training: dict[str, Any] = Field(
            default_factory=dict, description="of its head, where it is not the spec's `training`"
        )

        @field_validator("training")
        @classmethod
        def _known(cls, training: dict[str, Any]) -> dict[str, Any]:
            return spec.training_keys(training)

    def __init__(
        self,
        backbone: Backbone,
        settings: dict[str, Any] | None = None,
        head: Head | None = None,
    ) -> None:
        super().__init__(backbone, settings)
        self.taps = self.find_taps()
        self.head: nn.Module | None = None
        if head is not None:
            self.use(head)

    @classmethod
    def identity(cls, settings: dict[str, Any]) -> Any:
        """Return the settings but those of the head, which the head's own fingerprint covers."""
        return {k: v for k, v in settings.items() if k not in ("training", "auxiliary")}

    @classmethod
    def training_of(cls, section: spec.Training, own: dict[str, Any]) -> spec.Training:
        """How heads are trained: a spec's section, under what the method fixes and its own keys.

        own: those of the explainer's setting `training`. A recipe among them means its every key.
        """
        recipe = spec.recipe_keys(own["recipe"]) if "recipe" in own else {}
        paper = cls.published if own.get("recipe") == "paper" else {}
        layers = section.model_dump(), recipe, cls.fixed, paper, own
        return spec.Training.model_validate({k: v for layer in layers for k, v in layer.items()})

    def find_taps(self) -> Sequence[Tap]:
        """Return the taps that the head reads.

        Raises:
            NotApplicable: the backbone has no taps that this method can read.
        """
        if not self.backbone.taps:
            raise NotApplicable(
                f"only the logits of {self.backbone.name} can be seen, and {self.name} reads its "
                "feature maps: ptame explains such classifiers"
            )
        return self.backbone.taps

    def new_head(self, shown: str = "class") -> Head:
        """Make an untrained head on the backbone's device."""
        channels = [tap.channels for tap in self.taps]
        size = map_size([(tap.height, tap.width) for tap in self.taps])
        head = self.mechanism(channels, self.backbone.num_classes, size, shown)
        return head.to(self.backbone.device)

    def use(self, head: Head) -> Trained:
        """Take a trained head, folded, and return this explainer."""
        self.head = head.eval().fold().to(self.backbone.device)
        return self

    def read(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Return what the head reads: features (B, C, h, w) at its taps.

        images: (B, 3, H, W) in [0, 1]. features: at the backbone's taps.
        """
        return features

    def masked_logits(
        self, images: Tensor, class_maps: Tensor, attention: Tensor, mode: str
    ) -> Tensor:
        """Return logits (B, K) of what is left under the attention maps, in training.

        images: (B, 3, H, W) in [0, 1]. class_maps: (B, 1, h, w). attention: their sigmoid. mode:
        `raw` or `normalised` (see `masking.masked`), or `both` (`masking.masked_both_ways`).
        """
        normalise = self.backbone.normalise
        if mode == "both":
            return self.backbone(masked_both_ways(images, class_maps, normalise))
        return self.backbone(masked(images, attention, mode, normalise))

    @override
    @torch.inference_mode()
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        if self.head is None:
            raise ValueError(f"{self.name} needs a trained head")
        with self.backbone.autocast():
            return self.head(self.read(forward.images, forward.features), targets).float()
