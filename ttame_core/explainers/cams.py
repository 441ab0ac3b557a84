"""The CAM family: maps that are weighted sums of the channels of one tap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from ttame_core.backbones import Backbone, Tap
from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable

AT_ONCE = 32  # variants of an image in a forward pass


class GradientCam(Explainer):
    """A CAM of the grad-cam library, at the deepest tap on whose positions the logits depend.

    In a hierarchical network, that is the last stage. In a transformer that classifies by its class
    token, the logits do not depend on patch tokens after the last attention; there, as usual, the
    CAM is made at the norm before that attention. Maps have the tap's own resolution.
    """

    method: ClassVar[str]  # name of the library's class
    forwards, backwards = "1", "1"
    applies_to = "taps whose spatial features have a gradient"

    @override
    def prepare(self) -> None:
        self.layer, self.tap = deepest_with_gradient(self.backbone)
        self.spot = nn.Identity()  # a module that returns the tap's tensor and nothing else
        method = getattr(import_module("pytorch_grad_cam"), self.method)  # takes two seconds
        self.cam = method(self.backbone, [self.spot], reshape_transform=self.tap.feature_map)
        self.cam.compute_input_gradient = True  # with frozen weights, there is no other graph
        self.cam.get_target_width_height = lambda inputs: None  # no resizing of the map

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone())
        with _changed(self.layer, self.tap, self.spot), torch.enable_grad():
            maps = [
                self.cam(inputs, [itemgetter(int(t)) for t in column])  # picks the target's logit
                for column in targets.T
            ]
        self.cam.activations_and_grads.clear()
        del self.cam.outputs  # frees their graph
        return torch.stack([torch.from_numpy(m) for m in maps], dim=1)


class GradCam(GradientCam):
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, section 3, equations 1 and 2).

    A channel's weight is the mean of the target logit's gradient over the channel's positions.
    """

    name = "gradcam"
    method = "GradCAM"


class GradCamPlusPlus(GradientCam):
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv 1710.11063, section 3, equation 19).

    A channel's weight is the sum of its positive gradients, each weighted by a coefficient of
    second and third derivatives at its position.
    """

    name = "gradcam++"
    method = "GradCAMPlusPlus"


class LayerCam(GradientCam):
    """LayerCAM (Jiang et al. 2021, IEEE Transactions on Image Processing 30, section III).

    Each position of each channel is weighted by its own positive gradient.
    """

    name = "layercam"
    method = "LayerCAM"


class XGradCam(GradientCam):
    """XGrad-CAM (Fu et al. 2020, arXiv 2008.02312, section 3).

    A channel's weight is the mean of its gradients, each weighted by the share that its position
    has of the channel's sum.
    """

    name = "xgradcam"
    method = "XGradCAM"


class HiResCam(GradientCam):
    """HiResCAM (Draelos and Carin 2020, arXiv 2011.08891, section 3).

    The map is the sum over channels of activation times gradient at each position.
    """

    name = "hirescam"
    method = "HiResCAM"


class EigenCam(Explainer):
    """Eigen-CAM (Muhammad and Yeasin 2020, arXiv 2008.00299, section III).

    The map is the projection of each position of the deepest spatial tap on the first principal
    component of the channels, the same for every target. Features are those of the shared pass.
    """

    name = "eigencam"
    applies_to = "backbones with a tap of more than one place"

    @override
    def prepare(self) -> None:
        self.place = deepest_spatial(self.backbone)

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        features = forward.features[self.place].float().cpu().numpy()
        maps = torch.from_numpy(np.stack([_principal_component(f) for f in features])).relu()
        return maps[:, None].expand(-1, targets.shape[1], -1, -1)


class ScoreCam(Explainer):
    """Score-CAM (Wang et al. 2020, arXiv 1910.01279, section 3).

    Each channel of the deepest spatial tap, upsampled and min–max normalised, masks the normalised
    image; the channel's weight is the softmax over channels of the target's logit. The same passes
    serve all targets. Maps equal those of the grad-cam library, which holds all masked images of an
    image in memory at once.
    """

    name = "scorecam"
    forwards = "C"
    applies_to = "backbones with a tap of more than one place"

    @override
    def prepare(self) -> None:
        self.place = deepest_spatial(self.backbone)

    @override
    @torch.inference_mode()
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images)
        every = forward.features[self.place].float()
        return torch.stack(
            [
                _weighted(features, self._logits(image, features)[:, chosen].softmax(dim=0))
                for image, features, chosen in zip(inputs, every, targets, strict=True)
            ]
        )

    def _logits(self, image: Tensor, features: Tensor) -> Tensor:
        """Return logits (C, K) float32 of an image (3, H, W) masked by each channel (C, h, w)."""
        logits = []
        for channels in features[:, None].split(AT_ONCE):
            masks = nn.functional.interpolate(
                channels, size=image.shape[-2:], mode="bilinear", align_corners=True
            )
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            with self.backbone.autocast():
                logits.append(self.backbone(image * ((masks - low) / (high - low + 1e-8))))
        return torch.cat(logits).float()


class AblationCam(Explainer):
    """Ablation-CAM (Desai and Ramaswamy 2020, WACV, section 3).

    A channel's weight is the share of the target's logit that is lost where the channel of
    Grad-CAM's tap is set to 0. The passes serve all targets. For networks without ReLU, the
    grad-cam library sets channels to a large negative number; here they are set to 0, as published.
    """

    name = "ablationcam"
    forwards = "C + 1"
    applies_to = GradientCam.applies_to

    @override
    def prepare(self) -> None:
        self.layer, self.tap = deepest_with_gradient(self.backbone)

    @override
    @torch.inference_mode()
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images)
        seen: list[Tensor] = []

        def see(output: Tensor) -> Tensor:
            seen.append(self.tap.feature_map(output).float())
            return output

        logits = self._logits(inputs, see)
        maps = []
        for image, features, whole, chosen in zip(inputs, seen[0], logits, targets, strict=True):
            without = torch.cat(
                [
                    self._logits(image.expand(len(c), -1, -1, -1), _Ablated(self.tap, c))
                    for c in torch.arange(len(features), device=inputs.device).split(AT_ONCE)
                ]
            )
            maps.append(_weighted(features, ((whole - without) / whole)[:, chosen]))
        return torch.stack(maps)

    def _logits(self, inputs: Tensor, change: Any) -> Tensor:
        with _changed(self.layer, self.tap, change), self.backbone.autocast():
            return self.backbone(inputs).float()


class _Ablated:
    """A change of an output (1, …) to n copies, each of which has another channel set to 0."""

    def __init__(self, tap: Tap, channels: Tensor) -> None:
        self.tap, self.channels = tap, channels

    def __call__(self, output: Tensor) -> Tensor:
        output, copies = output.clone(), torch.arange(len(output), device=output.device)
        if self.tap.layout == "NCHW":
            output[copies, self.channels] = 0
        else:
            output[copies, self.tap.prefix :, ..., self.channels] = 0
        return output


def _principal_component(features: np.ndarray) -> np.ndarray:
    """Project channels (C, h, w) on their first principal component (h, w).

    The result is that of the grad-cam library, without its C×C matrix.
    """
    places = features.reshape(len(features), -1).T
    centred = places - places.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    return (centred @ axes[0]).reshape(features.shape[1:])


def _weighted(features: Tensor, weights: Tensor) -> Tensor:
    """Return the positive part (T, h, w) of sums of channels (C, h, w) with weights (C, T)."""
    return torch.einsum("chw,ct->thw", features, weights).relu()


@contextmanager
def _changed(layer: nn.Module, tap: Tap, change: Any) -> Iterator[None]:
    """Apply `change` to the tap's tensor in the layer's output, in this context."""

    def hook(module: nn.Module, args: Any, given: Any) -> Any:
        changed = change(tap.output(given))
        if tap.item is None:
            return changed
        return type(given)(changed if i == tap.item else o for i, o in enumerate(given))

    hooked = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        hooked.remove()


def deepest_spatial(backbone: Backbone) -> int:
    """Return the index of the deepest tap that has more than one position."""
    for place, tap in reversed([*enumerate(backbone.taps)]):
        if tap.height * tap.width > 1:
            return place
    raise NotApplicable(f"no tap of {backbone.name} has more than one place: name other taps")


def deepest_with_gradient(backbone: Backbone) -> tuple[nn.Module, Tap]:
    """Find the deepest module at a spatial tap, or a norm in it, where a logit has a gradient."""
    for tap in reversed(backbone.taps):
        if tap.height * tap.width == 1:
            continue
        module = backbone.model.get_submodule(tap.module)
        norm = getattr(module, "norm1", None)
        for layer, place in ((module, tap), (norm, replace(tap, item=None))):
            if layer is not None and _has_gradient(backbone, layer, place):
                return layer, place
    raise NotApplicable(
        f"no tap of {backbone.name} has a spatial gradient that CAMs could use: name other taps"
    )


def _has_gradient(backbone: Backbone, layer: nn.Module, tap: Tap) -> bool:
    outputs: list[Tensor] = []

    def see(output: Tensor) -> Tensor:
        outputs.append(output)
        return output

    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, *backbone.preprocessing.shape, generator=generator)
    inputs = backbone.normalise(noise.to(backbone.device)).requires_grad_()
    with _changed(layer, tap, see), torch.enable_grad():
        logits = backbone(inputs)
        (gradient,) = torch.autograd.grad(logits[0].max(), outputs[-1], allow_unused=True)
    return gradient is not None and bool(tap.feature_map(gradient).abs().max() > 0)
