"""Attributions of pixels, computed by captum: maps of the image's resolution.

Maps are as large as the image, up to 224 pixels a side; larger ones are averaged over areas, since
every metric upsamples maps anyway. A pixel's value is the sum over its three channels. Methods that
follow gradients add up absolute values, which tell how much a pixel matters, for or against.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from ttame_core import spec
from ttame_core.explainers.base import Explainer, ForwardPass, NotApplicable, bounded
from ttame_core.imports import library

# The share of the logit's difference that DeepLIFT may leave unexplained. Where windows overlap,
# captum's max pooling loses some 10 %; where a nonlinearity has no rule, 100 % and more are lost.
INCOMPLETE = 0.25
warnings.filterwarnings("ignore", "Setting forward, backward hooks")  # a warning of each DeepLIFT


class Attribution(Explainer):
    """The base class of explainers from the package captum, with maps of the images' size."""

    applies_to = "every backbone"

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        inputs = self.backbone.normalise(forward.images.clone()).requires_grad_()
        with torch.enable_grad():
            maps = [self._maps(inputs, column, forward.batch.keys) for column in targets.T]
        return bounded(torch.stack(maps, dim=1).detach())

    @abstractmethod
    def _maps(self, inputs: Tensor, targets: Tensor, keys: list[str]) -> Tensor:
        """Return maps (B, H, W) of normalised images (B, 3, H, W) for targets (B,)."""

    def _black(self, inputs: Tensor) -> Tensor:
        """Return the normalised black image (1, 3, H, W)."""
        return self.backbone.normalise(torch.zeros_like(inputs[:1]))


class Saliency(Attribution):
    """Gradients (Simonyan et al. 2014, arXiv 1312.6034, section 3).

    The map is the absolute gradient of the target's logit, added up over the channels (the paper
    takes the largest).
    """

    name = "saliency"
    forwards, backwards = "1", "1"

    def _maps(self, inputs: Tensor, targets: Tensor, keys: list[str]) -> Tensor:
        attributions = _captum("Saliency")(self.backbone).attribute(inputs, targets)
        return attributions.sum(dim=1)


class IntegratedGradients(Attribution):
    """Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365, section 3).

    The map is the integral of the gradient along the straight line from the black image, by
    Gauss–Legendre quadrature with `steps` points, times the difference from the black image;
    absolute values are added up over the channels.
    """

    name = "integrated_gradients"
    forwards, backwards = "steps", "steps"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        steps: int = Field(50, ge=1, description="number of points of the path")

    def _maps(self, inputs: Tensor, targets: Tensor, keys: list[str]) -> Tensor:
        attributions = _captum("IntegratedGradients")(self.backbone).attribute(
            inputs,
            self._black(inputs).expand_as(inputs),
            targets,
            n_steps=self.settings.steps,
            internal_batch_size=len(inputs),
        )
        return attributions.abs().sum(dim=1)


class GradientShap(Attribution):
    """Gradient SHAP (Lundberg and Lee 2017, arXiv 1705.07874; expected gradients).

    A sample is the gradient at a random point between the black or the white image and the image
    with Gaussian noise, times the difference of the two. The map is the mean of `samples` samples;
    absolute values are added up over the channels. Samples follow from key and target alone.
    """

    name = "gradient_shap"
    forwards, backwards = "samples", "samples"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        samples: int = Field(20, ge=1, description="random points")
        noise: float = Field(0.1, ge=0, description="standard deviation, in normalised images")

    def _maps(self, inputs: Tensor, targets: Tensor, keys: list[str]) -> Tensor:
        ends = torch.cat([torch.zeros_like(inputs[:1]), torch.ones_like(inputs[:1])])
        method = _captum("GradientShap")(self.backbone)
        maps = []
        for image, target, key in zip(inputs, targets, keys, strict=True):
            with _seeded(f"{key}/{int(target)}"):
                attributions = method.attribute(
                    image[None],
                    self.backbone.normalise(ends),
                    n_samples=self.settings.samples,
                    stdevs=self.settings.noise,
                    target=int(target),
                )
            maps.append(attributions[0].abs().sum(dim=0))
        return torch.stack(maps)


class Occlusion(Attribution):
    """Occlusion (Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2).

    Squares of the mean colour cover parts of the image. A pixel's value is the loss of the target's
    logit, averaged over the squares that cover the pixel; a gain counts as 0.
    """

    name = "occlusion"
    forwards = "about (1 + (1 - window) / stride)² + 1"

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        window: float = Field(0.15, gt=0, le=1, description="side of a square, as a share")
        stride: float = Field(0.07, gt=0, le=1, description="share of the image's sides")

    def _maps(self, inputs: Tensor, targets: Tensor, keys: list[str]) -> Tensor:
        window, stride = (
            tuple(max(1, round(share * side)) for side in inputs.shape[-2:])
            for share in (self.settings.window, self.settings.stride)
        )
        attributions = _captum("Occlusion")(self.backbone).attribute(
            inputs.detach(),
            (inputs.shape[1], *window),
            (
                inputs.shape[1],
                *(min(step, side) for step, side in zip(stride, window, strict=True)),
            ),
            baselines=0,  # the mean colour in normalised images
            target=targets,
        )
        return attributions.mean(dim=1).clamp(min=0)


class DeepLift(Attribution):
    """DeepLIFT (Shrikumar et al. 2017, arXiv 1704.02685, section 3, rescale rule).

    The map is the contributions of the differences from the black image; absolute values are added
    up over the channels. captum has the rule for ReLU, ELU, sigmoid, tanh, softplus, softmax and
    pooling modules that are used once. Where a network does anything else, contributions do not add
    up to the logit's difference; the explainer does not apply where more than a quarter is missing.
    """

    name = "deeplift"
    forwards, backwards = "2", "2"
    applies_to = "networks whose nonlinearities are ReLU-like modules, each used once"

    @override
    def prepare(self) -> None:
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(1, *self.backbone.preprocessing.shape, generator=generator)
        inputs = self.backbone.normalise(noise.to(self.backbone.device)).requires_grad_()
        with torch.no_grad():
            differences = self.backbone(inputs)[0] - self.backbone(self._black(inputs))[0]
        target = differences.abs().argmax()
        try:
            with torch.enable_grad():
                contributions = self._contributions(inputs, target[None]).detach()
        except (AssertionError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise NotApplicable(
                f"captum's DeepLIFT cannot run on {self.backbone.name}: {reason}"
            ) from error
        left = float((contributions.sum() - differences[target]).abs() / differences[target].abs())
        if not left <= INCOMPLETE:
            raise NotApplicable(
                f"DeepLIFT's contributions do not add up on {self.backbone.name} ({left:.0%} of a "
                "logit's difference is missing): it has nonlinearities that captum has no rule for"
            )

    def _maps(self, inputs: Tensor, targets: Tensor, keys: list[str]) -> Tensor:
        return self._contributions(inputs, targets).abs().sum(dim=1)

    def _contributions(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with _out_of_place(self.backbone):
            return _captum("DeepLift")(self.backbone).attribute(
                inputs, self._black(inputs).expand_as(inputs), targets
            )


@contextmanager
def _seeded(name: str) -> Iterator[None]:
    """Seed torch and numpy by a name in this context, and restore their states afterwards."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    state = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)


@contextmanager
def _out_of_place(model: nn.Module) -> Iterator[None]:
    """Keep modules from overwriting their input, which DeepLIFT compares with their output."""
    inplace: list[Any] = [m for m in model.modules() if getattr(m, "inplace", False)]
    for module in inplace:
        module.inplace = False
    try:
        yield
    finally:
        for module in inplace:
            module.inplace = True
        for module in model.modules():  # captum leaves these attributes behind where it fails
            for name in ("input", "output", "input_ref"):
                vars(module).pop(name, None)


def _captum(name: str) -> Any:
    """Import a class of captum when it is first used, because the import takes a second."""
    return getattr(library("captum.attr"), name)
