"""Conversion of pictures, and of their boxes and masks, to the view that a classifier sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ttame_core.errors import UserError

RGB = ("red", "green", "blue")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of its pictures
# What classifiers are usually given, in words. A spec says them by `mean` and `std`.
USUAL = {
    "imagenet": "normalised by the mean and the deviation of ImageNet's pictures",
    "centred": "with values from −1 to 1",
    "unit": "with values from 0 to 1",
    "bytes": "with values from 0 to 255",
    "swapped": "with red and blue swapped",
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalisation of one classifier.

    Pictures are prepared as by timm's evaluation transform, or, with `resize` or the crop mode
    `inner`, as by Hugging Face processors.

    Attributes:
        input_size: (height, width) of the view, in pixels.
        crop_pct: share of the resized picture's shorter side that the view shows.
        crop_mode: `center`, `squash` or `border` as in timm; `inner` crops before it resizes.
        interpolation: interpolation of the resizing.
        mean: mean of each of C channels, of values in [0, 1], in the network's order of channels.
        std: standard deviation of each channel, in the same order.
        resize: length of the shorter side, or (height, width), before the crop, in pixels; replaces
            `crop_pct` and `crop_mode`.
        channel_order: order of the network's channels, `rgb` or `bgr`.
    """

    input_size: tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | tuple[int, int] | None = None
    channel_order: str = "rgb"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Make the preprocessing from a data configuration of timm, with ttame's keys added.

        Args:
            config: keys of `timm.data.resolve_model_data_config`, and `resize` and `channel_order`.
        """
        resize = config.get("resize")
        return cls(
            input_size=tuple(config["input_size"][-2:]),
            crop_pct=float(config["crop_pct"]),
            crop_mode=config["crop_mode"],
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            resize=tuple(resize) if isinstance(resize, list) else resize,
            channel_order=config.get("channel_order", "rgb"),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of channels, height and width of the network's input."""
        return len(self.mean), *self.input_size

    def view(self, image: Image.Image) -> Image.Image:
        """Return the resized and cropped picture, `input_size` pixels."""
        for step in _steps(self, self.interpolation):
            image = step(image)
        return image

    def pixels(self, image: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Return the view of a picture as a tensor (3, H, W) uint8, or (C, H, W) float32 in [0, 1].

        Args:
            image: a picture in colours or grey; for another number of channels than three, also a
                picture of mode `F` in [0, 1] for each (`ttame_core.data.images.decode_channels`).

        Raises:
            UserError: the picture has not as many channels as the network takes.
        """
        if isinstance(image, Image.Image) and len(self.mean) == 1:
            image = [Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255)]
        if isinstance(image, Image.Image):
            if len(self.mean) != len(RGB):
                raise UserError(
                    f"the classifier takes {len(self.mean)} channels, and a picture in colours has "
                    "three"
                )
            array = np.asarray(self.view(image.convert("RGB")))
            return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
        array = np.stack(
            [self._view_of_channel(*one) for one in zip(image, self.mean, strict=True)]
        )
        return torch.from_numpy(array).clamp(0, 1)  # some interpolations go beyond

    def _view_of_channel(self, channel: Image.Image, mean: float) -> np.ndarray:
        for step in _steps(self, self.interpolation):
            channel = _padding_with(mean, step)(channel)
        return np.asarray(channel)

    def mask(self, mask: Image.Image) -> Tensor:
        """Resize and crop a mask of object numbers with its picture, to (H, W) uint8."""
        for step in _steps(self, "nearest"):
            mask = _padding_with(0, step)(mask)  # padding belongs to no object
        return torch.from_numpy(np.array(mask, dtype=np.uint8))

    def boxes(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Move boxes of a picture into the view, and clip them to it.

        Args:
            boxes: (N, 4) float32, x0, y0, x1, y1 in pixels of the picture.
            size: (width, height) of the picture, in pixels.

        Returns:
            (M, 4) float32 in pixels of the view, M ≤ N: boxes outside the crop are left out.
        """
        scale_x, scale_y, left, top = self._geometry(size)
        scale = torch.tensor([scale_x, scale_y, scale_x, scale_y])
        moved = boxes * scale - torch.tensor([left, top, left, top], dtype=torch.float32)
        height, width = self.input_size
        moved[:, 0::2] = moved[:, 0::2].clamp(0, width)
        moved[:, 1::2] = moved[:, 1::2].clamp(0, height)
        visible = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        return moved[visible]

    def region(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of a picture that the view shows: x0, y0, x1, y1, pixels of the picture.

        The part reaches beyond the picture where the view is padded.

        Args:
            size: (width, height) of the picture, in pixels.
        """
        scale_x, scale_y, left, top = self._geometry(size)
        height, width = self.input_size
        return (
            left / scale_x,
            top / scale_y,
            (left + width) / scale_x,
            (top + height) / scale_y,
        )

    def _geometry(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the scales in x and y, and the view's left and top in the scaled picture."""
        from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
        from torchvision.transforms import CenterCrop, Resize
        from torchvision.transforms.functional import _compute_resized_output_size

        width, height = size
        scale_x = scale_y = 1.0
        left = top = 0.0
        for step in _steps(self, self.interpolation):
            before = width, height
            if isinstance(step, _Crop):
                x, y, width, height = step.part(before)
                left, top = left + x, top + y
                continue
            if isinstance(step, CenterCrop | CenterCropOrPad):
                left += _crop_start(width, step.size[1])
                top += _crop_start(height, step.size[0])
                height, width = step.size
                continue
            if isinstance(step, Resize):
                sizes = [step.size] if isinstance(step.size, int) else list(step.size)
                height, width = _compute_resized_output_size((height, width), sizes)
            elif isinstance(step, ResizeKeepRatio):
                ratios = height / step.size[0], width / step.size[1]
                ratio = max(ratios) * step.longest + min(ratios) * (1 - step.longest)
                height, width = round(height / ratio), round(width / ratio)
            else:
                raise TypeError(f"no geometry known for the transform {type(step).__name__}")
            ratio_x, ratio_y = width / before[0], height / before[1]
            scale_x, left = scale_x * ratio_x, left * ratio_x
            scale_y, top = scale_y * ratio_y, top * ratio_y
        return scale_x, scale_y, left, top

    def others(self) -> dict[str, Preprocessing]:
        """Return the other usual ways to normalise the same view, by their names in USUAL."""
        channels = len(self.mean)
        given: dict[str, dict[str, Any]] = {
            name: {"mean": (mean,) * channels, "std": (std,) * channels}
            for name, mean, std in (
                ("centred", 0.5, 0.5),
                ("unit", 0.0, 1.0),
                ("bytes", 0.0, 1 / 255),
            )
        }
        if channels == len(RGB):
            mean, std = (values[:: -1 if self.channel_order == "bgr" else 1] for values in IMAGENET)
            given["imagenet"] = {"mean": mean, "std": std}
            given["swapped"] = {"channel_order": "rgb" if self.channel_order == "bgr" else "bgr"}
        others = {name: replace(self, **keys) for name, keys in given.items()}
        return {name: other for name, other in others.items() if other != self}

    def normalise(self, images: Tensor) -> Tensor:
        """Turn float images (B, C, H, W) in [0, 1] into the network's input."""
        mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
        std = images.new_tensor(self.std).view(1, -1, 1, 1)
        if self.channel_order == "bgr":
            images = images.flip(1)
        return (images - mean) / std


@lru_cache(maxsize=64)
def _steps(preprocessing: Preprocessing, interpolation: str) -> tuple[Any, ...]:
    """Return the resizing and cropping steps."""
    if preprocessing.crop_mode == "inner" or preprocessing.resize is not None:
        return _processor_steps(preprocessing, interpolation)
    from timm.data import create_transform  # slow to import, with torchvision below it

    transform = create_transform(
        preprocessing.input_size,
        is_training=False,
        interpolation=interpolation,
        mean=preprocessing.mean if len(preprocessing.mean) == len(RGB) else (0.5,) * len(RGB),
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        normalize=False,
    )
    return tuple(transform.transforms[:-1])  # the last one makes a tensor


def _processor_steps(preprocessing: Preprocessing, interpolation: str) -> tuple[Any, ...]:
    """Return the steps of Hugging Face processors: resize and crop, or crop and then resize.

    Processors of LeViT, Perceiver and some others crop first (crop mode `inner`).
    """
    from torchvision.transforms import InterpolationMode, Resize

    mode, view = InterpolationMode(interpolation), preprocessing.input_size
    if preprocessing.resize is None:
        return _Crop(preprocessing.crop_pct), Resize(view, mode)
    return Resize(preprocessing.resize, mode), _Crop(view)


def _padding_with(value: float, step: Any) -> Any:
    """Return a step that pads with a value; steps that do not pad stay as they are."""
    from timm.data.transforms import CenterCropOrPad

    if isinstance(step, CenterCropOrPad):
        return CenterCropOrPad(step.size, fill=value)  # type: ignore[arg-type]
    return step


@dataclass(frozen=True)
class _Crop:
    """A crop around the middle of a picture, or of a mask of objects.

    The left and top edges are rounded down. Where the crop is larger than the picture, the rest is
    0: black in a picture, no object in a mask.

    size: (height, width), pixels, or the side of a square as a share of the shorter side.
    """

    size: tuple[int, int] | float

    def part(self, picture: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return left, top, width and height of the crop of a picture (width, height)."""
        side = self.size if isinstance(self.size, tuple) else int(self.size * min(picture))
        height, width = side if isinstance(side, tuple) else (side, side)
        left, top = (
            (given - wanted) // 2 if given >= wanted else -((wanted - given) // 2)
            for given, wanted in zip(picture, (width, height), strict=True)
        )
        return left, top, width, height

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top, width, height = self.part(image.size)
        return image.crop((left, top, left + width, top + height))


def _crop_start(side: int, crop: int) -> int:
    """Return the first pixel of a centre crop; negative where the picture is padded."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2)
