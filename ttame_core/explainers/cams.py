"""The CAM family: maps that are weighted sums of the channels of one tap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones import Backbone, Tap
from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable
from ttame_core.imports import library
from ttame_core.perturbation.masking import min_max
from ttame_core.seeding import generator_for

Score = Callable[[Tensor], Tensor]  # from an image's logits (K,), what a map explains


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
        self.cam = _LibraryCam(self.backbone, self.method, *deepest_with_gradient(self.backbone))

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone())
        maps = [
            self.cam.maps(
                inputs, [self.score(x, int(t)) for x, t in zip(forward.logits, column, strict=True)]
            )
            for column in targets.T
        ]
        return torch.stack(maps, dim=1)

    def score(self, logits: Tensor, target: int) -> Score:
        """Return what the map explains: the target's logit.

        Args:
            logits: (K,) float32 of the image.
            target: class index.
        """
        return itemgetter(target)


class _LibraryCam:
    """A CAM of the grad-cam library, by the name of its class, at a tap in a layer's output."""

    def __init__(self, backbone: Backbone, method: str, layer: nn.Module, tap: Tap) -> None:
        self.layer, self.tap = layer, tap
        self.spot = nn.Identity()  # a module that returns the tap's tensor and nothing else
        made = getattr(library("pytorch_grad_cam"), method)
        self.cam = made(backbone, [self.spot], reshape_transform=tap.feature_map)
        self.cam.compute_input_gradient = True  # with frozen weights, there is no other graph
        self.cam.get_target_width_height = lambda inputs: None  # no resizing of the map

    def maps(self, inputs: Tensor, scores: list[Score]) -> Tensor:
        """Return the maps (B, h, w) of normalised images (B, 3, H, W) for a score of each."""
        with changed(self.layer, self.tap, self.spot), torch.enable_grad():
            maps = self.cam(inputs, scores)
        self.cam.activations_and_grads.clear()
        del self.cam.outputs  # frees their graph
        return torch.from_numpy(maps)


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


class FinerCam(GradientCam):
    """Finer-CAM (Zhang et al. 2025, CVPR, arXiv 2501.11309, section 3.2), of Grad-CAM.

    What is explained is how far the target's logit is above those of the classes with the closest
    logits: the mean of its differences from `alpha` times theirs, weighted by their probabilities
    as in the authors' code.
    """

    name = "finercam"
    method = "GradCAM"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        alpha: float = Field(0.6, ge=0, description="weight of the other classes' logits")
        others: int = Field(3, ge=1, description="number of classes that the target is told from")

    @override
    def score(self, logits: Tensor, target: int) -> Score:
        distances = (logits - logits[target]).abs()
        distances[target] = torch.inf
        count = min(self.settings.others, len(logits) - 1)
        others = distances.topk(count, largest=False).indices.tolist()
        weighted = library("pytorch_grad_cam.utils.model_targets").FinerWeightedTarget
        return weighted(target, others, self.settings.alpha)


class RefineCam(Explainer):
    """RefineCAM (arXiv 2605.14641), of Grad-CAM++: the product of the maps of all spatial taps.

    Each map is min–max normalised, and enlarged to the largest of them.
    """

    name = "refinecam"
    forwards, backwards = "taps", "taps"
    applies_to = GradientCam.applies_to

    @override
    def prepare(self) -> None:
        self.cams = [
            _LibraryCam(self.backbone, "GradCAMPlusPlus", *place)
            for place in _with_gradient(self.backbone)
        ]

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone())
        size = max((cam.tap.height, cam.tap.width) for cam in self.cams)
        products = [torch.ones(len(inputs), *size) for _ in targets.T]
        for cam in self.cams:
            for product, column in zip(products, targets.T, strict=True):
                maps = min_max(cam.maps(inputs, [itemgetter(int(t)) for t in column]))
                product *= nn.functional.interpolate(maps[:, None], size, mode="bilinear")[:, 0]
        return torch.stack(products, dim=1)


class SmoothGradCamPlusPlus(Explainer):
    """Smooth Grad-CAM++ (Omeiza et al. 2019, arXiv 1908.01224, section 3).

    Grad-CAM++ with the first three powers of the gradient averaged over noisy copies of the image.
    In the numerator of a position's coefficient stands the second power, as in Grad-CAM++ and in
    torchcam; the paper has the first. Noise follows from the key alone, and serves all targets.
    """

    name = "smoothgradcam++"
    forwards, backwards = "samples + 1", "samples + 1"
    applies_to = GradientCam.applies_to

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        samples: int = Field(4, ge=1, description="noisy copies of the image")
        noise: float = Field(0.3, ge=0, description="standard deviation, in normalised images")

    @override
    def prepare(self) -> None:
        self.layer, self.tap = deepest_with_gradient(self.backbone)

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images)
        maps = [
            self._maps(image, chosen, generator_for(key))
            for image, chosen, key in zip(inputs, targets, forward.batch.keys, strict=True)
        ]
        return torch.stack(maps)

    def _maps(self, image: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """Return maps (T, h, w) of a normalised image (3, H, W)."""
        noise = torch.randn(self.settings.samples, *image.shape, generator=generator)
        noisy = image + self.settings.noise * noise.to(image)
        seen: list[Tensor] = []
        with changed(self.layer, self.tap, partial(see, seen)), torch.enable_grad():
            logits = self.backbone(torch.cat([image[None], noisy]).requires_grad_())
        features = self.tap.feature_map(seen[0].detach())[0].float()
        weights = []
        for target in targets:
            (gradient,) = torch.autograd.grad(logits[:, target].sum(), seen[0], retain_graph=True)
            once = self.tap.feature_map(gradient)[1:].float()
            twice, thrice = once.square().mean(0), once.pow(3).mean(0)
            total = 2 * twice + (thrice * features).sum((1, 2), keepdim=True)
            weights.append((twice / (total + 1e-8) * once.mean(0).relu()).sum((1, 2)))
        return weighted(features, torch.stack(weights, dim=1))


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


def _principal_component(features: np.ndarray) -> np.ndarray:
    """Project channels (C, h, w) on their first principal component (h, w).

    The result is that of the grad-cam library, without its C×C matrix.
    """
    places = features.reshape(len(features), -1).T
    centred = places - places.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    return (centred @ axes[0]).reshape(features.shape[1:])


@contextmanager
def changed(layer: nn.Module, tap: Tap, change: Any) -> Iterator[None]:
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


def weighted(features: Tensor, weights: Tensor) -> Tensor:
    """Return the positive part (T, h, w) of sums of channels (C, h, w) with weights (C, T)."""
    return torch.einsum("chw,ct->thw", features, weights).relu()


def deepest_spatial(backbone: Backbone) -> int:
    """Return the index of the deepest tap that has more than one position."""
    for place, tap in reversed([*enumerate(backbone.taps)]):
        if tap.height * tap.width > 1:
            return place
    raise NotApplicable(f"no tap of {backbone.name} has more than one place: name other taps")


def deepest_with_gradient(backbone: Backbone) -> tuple[nn.Module, Tap]:
    """Find the deepest module at a spatial tap, or a norm in it, where a logit has a gradient."""
    return next(_with_gradient(backbone))


def _with_gradient(backbone: Backbone) -> Iterator[tuple[nn.Module, Tap]]:
    """Yield, for each spatial tap from the deepest on, the place where a logit has a gradient.

    Raises:
        NotApplicable: there is none.
    """
    none = True
    for tap in reversed(backbone.taps):
        if tap.height * tap.width == 1:
            continue
        module = backbone.model.get_submodule(tap.module)
        norm = getattr(module, "norm1", None)
        for layer, place in ((module, tap), (norm, replace(tap, item=None))):
            if layer is not None and _has_gradient(backbone, layer, place):
                none = False
                yield layer, place
                break
    if none:
        raise NotApplicable(
            f"no tap of {backbone.name} has a spatial gradient that CAMs could use: name other taps"
        )


def _has_gradient(backbone: Backbone, layer: nn.Module, tap: Tap) -> bool:
    outputs: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, *backbone.preprocessing.shape, generator=generator)
    inputs = backbone.normalise(noise.to(backbone.device)).requires_grad_()
    with changed(layer, tap, partial(see, outputs)), torch.enable_grad():
        logits = backbone(inputs)
        (gradient,) = torch.autograd.grad(logits[0].max(), outputs[-1], allow_unused=True)
    return gradient is not None and bool(tap.feature_map(gradient).abs().max() > 0)


def see(seen: list[Tensor], output: Tensor) -> Tensor:
    """Put a tap's tensor into a list, and leave the tensor as it is."""
    seen.append(output)
    return output
