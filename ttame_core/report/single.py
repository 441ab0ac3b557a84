"""Explanations of single pictures, without a lake, for `ttame explain-image`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.decoding import apart
from ttame_core.data.files import read
from ttame_core.data.images import COLOURS, decode_for, render_image
from ttame_core.data.loader import Batch
from ttame_core.errors import UserError
from ttame_core.explainers import Explainer, forward_pass
from ttame_core.perturbation.masking import min_max
from ttame_core.report.pictures import grid, overlay

TILE = 320  # side of a picture, in pixels


@dataclass(frozen=True)
class Photo:
    """A picture as readers see it, and as a classifier reads it.

    Attributes:
        shown: the picture in RGB.
        channels: the same for three channels, else a picture of mode `F` for each channel.
    """

    shown: Image.Image
    channels: Image.Image | list[Image.Image]


@dataclass(frozen=True)
class Explained:
    """A picture with maps of one class.

    Attributes:
        name: name of the picture.
        view: the classifier's view of the picture.
        predicted: name of the predicted class.
        probability: softmax of the predicted class.
        target: name of the explained class.
        of_target: softmax of the explained class.
        maps: maps (h, w) in [0, 1], by explainer.
    """

    name: str
    view: Image.Image
    predicted: str
    probability: float
    target: str
    of_target: float
    maps: dict[str, np.ndarray]

    @property
    def sentence(self) -> str:
        """A line with the predicted class, and with the explained class where they differ."""
        said = f"{self.name}: {self.predicted} {self.probability:.3f}"
        if self.target == self.predicted:
            return said
        return f"{said}; explained: {self.target} {self.of_target:.3f}"


def read_picture(path: str, count: int = COLOURS) -> Photo:
    """Read the picture in a file; it is decoded in a process of its own, which may die of it.

    Args:
        path: path of the file.
        count: number of channels that the classifier takes.

    Raises:
        UserError: there is no such file, or it holds no picture of these channels.
    """
    try:
        data = read(path)
    except OSError as error:
        raise UserError(f"image {path} cannot be read: {error.strerror or error}") from error
    channels = apart(decode_for, data, path, count)
    if isinstance(channels, Image.Image):
        return Photo(channels, channels)
    return Photo(apart(render_image, data, path), channels)


def batch_of(names: Sequence[str], photos: Sequence[Photo], view: Preprocessing) -> Batch:
    """Return pictures without labels and annotations as a batch.

    Args:
        names: names of the pictures.
        photos: the pictures.
        view: the classifier's preprocessing.
    """
    return Batch.bare(names, torch.stack([view.pixels(photo.channels) for photo in photos]))


def explain_picture(
    name: str,
    photo: Photo,
    explainers: Mapping[str, Explainer],
    classes: Sequence[str],
    target: int | None = None,
) -> Explained:
    """Explain one class of a picture.

    Args:
        name: name of the picture.
        photo: the picture.
        explainers: explainers of one backbone, by name.
        classes: the backbone's names of its classes.
        target: number of the class to explain; None for the predicted one.

    Raises:
        UserError: an explainer has no map of the picture.
    """
    backbone = next(iter(explainers.values())).backbone
    forward = forward_pass(backbone, batch_of([name], [photo], backbone.preprocessing))
    probabilities = backbone.probabilities(forward.logits)[0].tolist()
    predicted = int(forward.logits[0].argmax())
    chosen = predicted if target is None else target
    targets = torch.tensor([[chosen]], device=forward.logits.device)
    maps = {}
    for label, explainer in explainers.items():
        heat = min_max(explainer.attribute(forward, targets)).float().cpu()[0, 0]
        if heat.isnan().any():
            raise UserError(
                f"the explainer {label} has no map of {name}: the explainer needs annotated images"
            )
        maps[label] = heat.numpy()
    return Explained(
        name,
        backbone.preprocessing.view(photo.shown),
        classes[predicted],
        probabilities[predicted],
        classes[chosen],
        probabilities[chosen],
        maps,
    )


def draw(pictures: Sequence[Explained]) -> Image.Image:
    """Draw a row per picture: the view with its predicted class, and the overlay of each map."""
    rows = []
    for one in pictures:
        tiles = [(one.view, f"{one.predicted} {one.probability:.2f}")]
        of = "" if one.target == one.predicted else f": {one.target} {one.of_target:.2f}"
        tiles += [(overlay(one.view, heat), f"{name}{of}") for name, heat in one.maps.items()]
        rows.append(tiles)
    return grid(rows, TILE)
