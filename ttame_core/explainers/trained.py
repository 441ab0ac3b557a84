"""The base class of explainers whose head is trained, once for each backbone."""

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
from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable, no_gradient
from ttame_core.heads.attention import AttentionHead, Head, LinearHead, SharedHead
from ttame_core.perturbation.masking import masked, masked_both_ways

# The loss of TAME, L-CAM and P-TAME, which the spec cannot change.
PUBLISHED_LOSS = {
    "objective": "cross_entropy",
    "map": "class",
    "masking": "raw",
    "lambda_variation": 0.01,
    "lambda_area": 2.0,
    "lambda_confidence": 1.5,
    "area_exponent": 0.3,
    "noise": 0.0,
    "fusion": "rows",
}


class Trained(Explainer):
    """The target's map from a trained head.

    A subclass defines what the head reads (`find_taps`, `read`), and what is masked in training
    (`masked_logits`).

    Attributes:
        mechanism: class of the head.
        fixed: keys of `training` that define the method, so that a spec cannot change them.
        published: further keys of `training` in the paper, for `recipe: paper`.
        takes_given: whether the head in a backbone's section is of this method.
        taps: taps that the head reads.
        head: the trained head, folded; None before `use`.

    Args:
        backbone: the backbone to explain.
        settings: the explainer's keys in a spec, by name.
        head: trained head; without one, the explainer can be trained, and has no maps.
    """

    needs_head = True
    mechanism: ClassVar[type[AttentionHead | LinearHead]] = AttentionHead
    fixed: ClassVar[dict[str, Any]] = {}
    published: ClassVar[dict[str, Any]] = {}
    takes_given: ClassVar[bool] = False
    applies_to = "backbones with taps"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        training: dict[str, Any] = Field(
            default_factory=dict,
            description="keys that override the spec's `training` for its head",
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
        if not backbone.outputs.differentiable:
            raise NotApplicable(no_gradient(backbone, self.name))
        self.taps = self.find_taps()
        self.head: nn.Module | None = None
        if head is not None:
            self.use(head)

    @classmethod
    def identity(cls, settings: dict[str, Any]) -> Any:
        """Return the settings without those of the head, which the head's fingerprint covers."""
        return {k: v for k, v in settings.items() if k not in ("training", "auxiliary")}

    @classmethod
    def training_of(cls, section: spec.Training, own: dict[str, Any]) -> spec.Training:
        """Return the settings by which heads are trained.

        They are the spec's, overridden by a recipe among the explainer's own keys, by the keys that
        the method fixes, and by the explainer's own keys, in this order.

        Args:
            section: section `training` of the spec.
            own: keys of the explainer's setting `training`.
        """
        recipe = spec.recipe_keys(own["recipe"]) if "recipe" in own else {}
        paper = cls.published if own.get("recipe") == "paper" else {}
        layers = section.model_dump(), recipe, cls.fixed, paper, own
        keys = {k: v for layer in layers for k, v in layer.items()}
        if keys["recipe"] == "tuned":  # not left to the classifier where the method says it
            keys["recipe"] = spec.recipe_of({**cls.fixed, **own})
        return spec.Training.model_validate(keys)

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

    def new_head(self, shown: str = "class", fusion: str = "rows") -> Head:
        """Make an untrained head on the backbone's device.

        Args:
            shown: the maps that it gives, `class` or `attention`.
            fusion: `rows` for a row of the fusion module per class, `shared` for one matrix.
        """
        channels = [tap.channels for tap in self.taps]
        size = map_size([(tap.height, tap.width) for tap in self.taps])
        if fusion == "shared" and self.mechanism is AttentionHead:
            vectors = self.backbone.class_vectors
            return SharedHead(channels, vectors, size, shown).to(self.backbone.device)
        head = self.mechanism(channels, self.backbone.num_classes, size, shown)
        return head.to(self.backbone.device)

    def use(self, head: Head) -> Trained:
        """Fold a trained head, explain with it from now on, and return this explainer."""
        self.head = head.eval().fold().to(self.backbone.device)
        return self

    def read(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Return the features (B, C, h, w) that the head reads.

        Args:
            images: (B, 3, H, W) in [0, 1].
            features: (B, C, h, w) for each tap of the backbone.
        """
        return features

    def masked_logits(
        self, images: Tensor, class_maps: Tensor, attention: Tensor, mode: str
    ) -> Tensor:
        """Return the logits (B, K) of masked images, for training.

        Args:
            images: (B, 3, H, W) in [0, 1].
            class_maps: (B, 1, h, w).
            attention: sigmoid of the class maps.
            mode: `raw` or `normalised` (see `masking.masked`), or `both`
                (`masking.masked_both_ways`).
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
