"""A frozen classifier with its preprocessing and its feature taps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from ttame_core import spec
from ttame_core.backbones.class_vectors import ClassVectors, class_vectors
from ttame_core.backbones.classes import ClassList, class_list
from ttame_core.backbones.models import create_model, weights_hash
from ttame_core.backbones.outputs import channels_of, logits_of, observe
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.backbones.taps import (
    Tap,
    capture,
    continue_masked,
    device_of,
    map_size,
    resolve_taps,
)
from ttame_core.backbones.wrapping import is_quantised, unwrapped
from ttame_core.errors import UserError


class Backbone(nn.Module):
    """A frozen classifier: it stays in evaluation mode, and its weights have no gradients.

    The classifier takes normalised images (B, C, H, W) float32, which `normalise` makes from images
    in [0, 1]; C is 3 for colours. Without taps it is a black box, of which only the logits are
    read; so are scripts of TorchScript and quantised networks. Wrappers such as DataParallel are
    taken off the network, and a network that returns probabilities is made to return logits (see
    `outputs`).

    Attributes:
        model: the network.
        name: name of the backbone in the lake.
        preprocessing: conversion of a picture to the network's input.
        taps: modules whose features heads read, from shallow to deep.
        outputs: what is known of what the network returns.
        num_classes: K, the number of logits.
        map_size: (height, width) of attention maps over the taps.
        precision: number format of forward passes.
        classes: names of the classes, where they are known.
        weights: hash of the weights where the backbone was loaded from a spec, else ''.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        preprocessing: Preprocessing,
        taps: Sequence[int | str] | None = None,
        outputs: str | None = None,
    ) -> None:
        super().__init__()
        self.model = unwrapped(model).float().eval().requires_grad_(False)
        self.name = name
        self.preprocessing = preprocessing
        self.taps: tuple[Tap, ...]
        self.outputs = observe(self.model, self._noise(2), name, outputs)
        chosen = [] if taps is None and is_quantised(self.model) else taps
        self.taps, self.num_classes = resolve_taps(self.model, name, preprocessing.shape, chosen)
        sizes = [(tap.height, tap.width) for tap in self.taps]
        self.map_size = map_size(sizes or [preprocessing.input_size])
        self.precision = torch.float32
        self.classes = ClassList()
        self.weights = ""
        self._capture = capture

    def fold(self) -> Backbone:
        """Fold batch norms into the convolutions before them, which makes passes faster.

        A model whose outputs would change stays as it is. See `folding`.
        """
        from ttame_core.backbones.folding import fold_batch_norms  # which imports timm

        example = self._noise(1)

        @torch.no_grad()
        def outputs() -> list[Tensor]:
            logits, features = self.features(example)
            return [logits, *features]

        fold_batch_norms(self.model, example, outputs, keep={tap.module for tap in self.taps})
        return self

    @cached_property
    def class_vectors(self) -> ClassVectors:
        """The vectors by which the classifier tells its classes apart, on its device."""
        blank = torch.zeros(1, *self.preprocessing.shape, device=self.device)
        return class_vectors(self.model, self.normalise(blank), self.num_classes).to(self.device)

    def _noise(self, count: int) -> Tensor:
        """Return normalised images (count, C, H, W) of noise, always the same."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(count, *self.preprocessing.shape, generator=generator)
        return self.normalise(images).to(self.device)

    @torch.no_grad()
    def is_constant(self) -> bool:
        """Say whether the logits are the same for noise, a black image and a white one."""
        flat = torch.tensor([0.0, 1.0], device=self.device).view(2, 1, 1, 1)
        flat = self.normalise(flat.expand(2, *self.preprocessing.shape))
        logits = self(torch.cat([self._noise(2), flat]))
        return bool((logits == logits[:1]).all())

    def compile_passes(self) -> Backbone:
        """Let torch.compile compile forward passes, which takes a minute before the first ones."""
        self.model.compile()
        self._capture = torch.compile(capture)
        return self

    def autocast(self) -> torch.autocast:
        """Return a context in which passes use `precision`, by automatic mixed precision."""
        low = self.precision if self.precision != torch.float32 else None
        return torch.autocast(self.device.type, low, enabled=low is not None)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode, whatever `mode` is."""
        return self

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return device_of(self.model)

    @property
    def masking(self) -> str:
        """How T-TAME masks images in training: before normalisation, `raw`, or after, `normalised`.

        Convolutional networks have `raw`, and transformers `normalised`.
        """
        spatial = not self.taps or self.taps[-1].layout == "NCHW"
        return "raw" if spatial else "normalised"

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability (…, K) float32 of each class from logits (…, K)."""
        return self.outputs.probabilities(logits)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) in [0, 1] into the network's input."""
        return self.preprocessing.normalise(images)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        return logits_of(self.model(inputs))

    def features(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B, K) and feature maps (B, C, h, w) of each tap, in one forward pass."""
        return self._capture(self.model, self.taps, inputs)

    def masked_at(self, tap: Tap, attention: Tensor, inputs: Tensor) -> Tensor:
        """Return logits (B, K) with the tap's features multiplied by attention (B, 1, h, w)."""
        return continue_masked(self.model, tap, attention, inputs)


def load_backbone(
    settings: spec.Backbone, checkpoint: str | None = None, num_classes: int | None = None
) -> Backbone:
    """Load the frozen classifier that `settings` describes, on the CPU.

    Args:
        settings: the backbone's section of a spec.
        checkpoint: file of a classifier that `fit` has trained, which replaces the settings' own.
        num_classes: number of classes of the classifier in `checkpoint`.

    Raises:
        UserError: the model is unknown, its weights cannot be loaded, the checkpoint is of another
            architecture, or the logits are the same for all images.
    """
    model = create_model(settings, checkpoint or settings.checkpoint, num_classes)
    view = preprocessing_of(settings, model)
    backbone = Backbone(model, settings.name, view, settings.taps, settings.outputs)
    given = settings.has_weights and settings.fit is None
    if (checkpoint or given) and backbone.is_constant():
        raise UserError(
            f"backbone {settings.name} gives the same logits for every image, as a network does "
            "whose weights are all zero: give other weights"
        )
    backbone.classes = class_list(settings, model, backbone.num_classes)
    backbone.weights = weights_hash(model)
    return backbone.fold()


def preprocessing_of(settings: spec.Backbone, model: nn.Module) -> Preprocessing:
    """Return the model's own preprocessing, with the overrides of the spec.

    Raises:
        UserError: the mean and the deviation are not of as many channels as the model takes.
    """
    from timm.data import resolve_model_data_config

    config = {**getattr(model, "pretrained_cfg", {}), **resolve_model_data_config(model)}
    overrides = settings.preprocessing.model_dump(exclude_none=True)
    if overrides.keys() & {"input_size", "crop_pct", "crop_mode"}:
        config.pop("resize", None)  # the processor's resizing is for the processor's own size
    size = overrides.pop("input_size", None) or settings.args.get("img_size")
    if size is not None:
        config["input_size"] = (3, size, size) if isinstance(size, int) else (3, *size)
    preprocessing = Preprocessing.from_config({**config, **overrides})
    channels = channels_of(model, preprocessing.input_size, settings.args.get("in_chans"))
    if not len(preprocessing.mean) == len(preprocessing.std) == channels:
        raise UserError(
            f"backbone {settings.name} takes images of {channels} channels: give it "
            "`preprocessing` with as many numbers in `mean` and in `std`, of values from 0 to 1"
        )
    return preprocessing
