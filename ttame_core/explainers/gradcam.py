"""Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391), through the grad-cam library."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pytorch_grad_cam import GradCAM as LibraryGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from ttame_core.attention import AttentionHead
from ttame_core.backbones import Backbone, Tap
from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable


class _AtTapSize(LibraryGradCAM):
    """The library's Grad-CAM, its maps left at the layer's own resolution."""

    def get_target_width_height(self, input_tensor: Tensor) -> None:  # type: ignore[override]
        return None


class GradCam(Explainer):
    """Grad-CAM of the deepest tap whose spatial features the logits depend on.

    That is the last stage of a hierarchical network. In a transformer that classifies from its
    class token, nothing after the last attention depends on the patch tokens: there it is the norm
    before that attention, as is usual.
    """

    name = "gradcam"

    forwards, backwards = "1", "1"
    applies_to = "taps whose spatial features have a gradient"

    def __init__(
        self,
        backbone: Backbone,
        settings: dict[str, Any] | None = None,
        head: AttentionHead | None = None,
    ) -> None:
        super().__init__(backbone, settings)
        self.layer, self.tap = _layer(backbone)
        self.spot = nn.Identity()  # a module that gives the tap's tensor and nothing else
        self.cam = _AtTapSize(backbone, [self.spot], reshape_transform=self.tap.feature_map)
        self.cam.compute_input_gradient = True  # frozen weights alone would leave no graph

    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone())
        hook = self.layer.register_forward_hook(self._through_spot)
        try:
            maps = [
                self.cam(inputs, [ClassifierOutputTarget(int(t)) for t in column])
                for column in targets.T
            ]
        finally:
            hook.remove()
        self.cam.activations_and_grads.clear()
        return torch.stack([torch.from_numpy(m) for m in maps], dim=1)

    def _through_spot(self, module: nn.Module, args: Any, output: Any) -> Any:
        found = self.spot(self.tap.output(output))
        if self.tap.item is None:
            return found
        return type(output)(found if i == self.tap.item else o for i, o in enumerate(output))


def _layer(backbone: Backbone) -> tuple[nn.Module, Tap]:
    """The deepest module at a tap, or norm within it, that a logit has a gradient at."""
    for tap in reversed(backbone.taps):
        module = backbone.model.get_submodule(tap.module)
        norm = getattr(module, "norm1", None)
        for layer, place in ((module, tap), (norm, replace(tap, item=None))):
            if layer is not None and _has_gradient(backbone, layer, place):
                return layer, place
    raise NotApplicable(
        f"no tap of {backbone.name} has a spatial gradient that Grad-CAM could use; name other taps"
    )


def _has_gradient(backbone: Backbone, layer: nn.Module, tap: Tap) -> bool:
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(
        lambda module, args, output: outputs.append(tap.output(output))
    )
    try:
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(1, 3, *backbone.preprocessing.input_size, generator=generator)
        inputs = backbone.normalise(noise.to(backbone.device)).requires_grad_()
        with torch.enable_grad():
            logits = backbone(inputs)
            (gradient,) = torch.autograd.grad(logits[0].max(), outputs[-1], allow_unused=True)
    finally:
        hook.remove()
    return gradient is not None and bool(tap.feature_map(gradient).abs().max() > 0)
