"""Preprocessing of a Hugging Face folder, translated from its image processor."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ttame_core import spec
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.errors import UserError

PICTURES = ((331, 239), (211, 333), (77, 50))  # sizes in pixels of pictures for the comparison
TOLERANCE = 0.25  # mean difference, in levels of 255; Pillow and torch round differently
LEVIT = 256 / 224  # factor by which LeViT's processor enlarges the shorter side in its file
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's order


def preparation(settings: spec.Backbone, folder: Path, config: Any) -> dict[str, Any]:
    """Describe how pictures are prepared for a model, as the keys of `Preprocessing`.

    The keys repeat what the model's image processor does. Where there is none, or where the spec
    gives size, mean and deviation itself, they are the size in the model's configuration and
    ImageNet's normalisation.

    Args:
        settings: the backbone's section of a spec.
        folder: folder of the model, as `save_pretrained` writes it.
        config: the model's configuration.

    Raises:
        UserError: the processor cannot be loaded, or does what ttame cannot repeat.
    """
    given = settings.preprocessing
    if None in (given.input_size, given.mean, given.std):
        processor = _processor(settings, folder)
        if processor is not None:
            try:
                return repeated(processor)
            except UserError as error:
                raise UserError(f"backbone {settings.name}: {error}") from error
        logging.getLogger(__name__).warning(
            "backbone %s has no preprocessor_config.json: pictures are prepared as for ImageNet; "
            "if that is wrong, give it `preprocessing` with input_size, mean and std",
            settings.name,
        )
    size = getattr(config, "image_size", 224)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return {"input_size": (3, height, width), "crop_pct": 1.0, "crop_mode": "squash"}


def _processor(settings: spec.Backbone, folder: Path) -> Any | None:
    """Load the image processor of a folder; None where the folder has none."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=settings.trusted
        )
    except (OSError, ValueError, TypeError, ImportError, KeyError, AttributeError) as error:
        files = [folder / f"{name}_config.json" for name in ("preprocessor", "processor")]
        if not any(file.is_file() for file in files):
            return None
        raise UserError(
            f"backbone {settings.name}: cannot load the image processor of {folder}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def repeated(processor: Any) -> dict[str, Any]:
    """Describe what a processor does as the keys of `Preprocessing`.

    The affine map of colours follows from pictures of a single colour, and the geometry from the
    processor's settings. The result is compared with the processor on a few pictures.

    Args:
        processor: an image processor of transformers.

    Raises:
        UserError: ttame cannot repeat what the processor does; the message says why.
    """
    if hasattr(processor, "data_config"):  # a model of timm, with timm's own transforms
        return dict(processor.data_config)
    pictures = [_picture(size) for size in PICTURES]
    wanted = [_pixels(processor, picture) for picture in pictures]
    sizes = {tuple(pixels.shape[2:]) for pixels in wanted}
    if len(sizes) > 1:
        raise _inexpressible(processor, "its pictures have different sizes")
    height, width = sizes.pop()
    size = (height, width)
    colours = _colours(processor)
    for geometry in _geometries(processor, size):
        config = {"input_size": (3, *size), **geometry, **colours}
        view = Preprocessing.from_config(config)
        if all(_repeats(view, *pair) for pair in zip(pictures, wanted, strict=True)):
            return config
    asked = [name for name in processor.to_dict() if name.startswith(("do_", "resize_"))]
    steps = ", ".join(name for name in sorted(asked) if getattr(processor, name, None))
    raise _inexpressible(processor, f"its steps are {steps}")


def _repeats(view: Preprocessing, picture: Image.Image, wanted: Tensor) -> bool:
    """Say whether a picture's view is what the processor makes of the picture."""
    given = view.normalise(view.pixels(picture)[None].float() / 255)
    levels = (given - wanted) * 255 * torch.tensor(view.std).view(1, -1, 1, 1)
    return bool(levels.abs().mean() < TOLERANCE)


def _inexpressible(processor: Any, why: str) -> UserError:
    return UserError(
        f"{type(processor).__name__} prepares pictures in a way that ttame cannot repeat: {why}; "
        "give the backbone a section `preprocessing` with input_size, mean and std, as close to "
        "that as possible"
    )


def _pixels(processor: Any, picture: Image.Image) -> Tensor:
    """Return the processor's result for a picture, (1, 3, H, W) float32."""
    try:
        given = processor(images=picture, return_tensors="pt")
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        raise _inexpressible(processor, " ".join(str(error).split())[:200]) from error
    pixels = given.get("pixel_values")
    if not isinstance(pixels, Tensor):
        raise _inexpressible(processor, f"it gives {', '.join(given)} and no pixel_values")
    if pixels.ndim != 4 or pixels.shape[:2] != (1, 3):
        raise _inexpressible(processor, f"it gives {tuple(pixels.shape)} for a picture")
    return pixels.float()


def _picture(size: tuple[int, int]) -> Image.Image:
    """Return a smooth random picture of (width, height) pixels."""
    width, height = size
    cells = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def _colours(processor: Any) -> dict[str, Any]:
    """Return mean, deviation and order of the channels, measured on pictures of one colour."""

    def middle(colour: tuple[int, int, int]) -> Tensor:
        pixels = _pixels(processor, Image.new("RGB", (64, 64), colour))
        return pixels[0, :, pixels.shape[2] // 2, pixels.shape[3] // 2]

    black = middle((0, 0, 0))
    slopes = torch.stack([middle(c) - black for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))], 1)
    for order, matrix in (("rgb", slopes), ("bgr", slopes.flip(1))):
        gains = matrix.diagonal()
        if torch.equal(matrix, gains.diag()) and bool((gains != 0).all()):
            deviations = 1 / gains
            return {
                "mean": tuple(_rounded(-black * deviations)),
                "std": tuple(_rounded(deviations)),
                "channel_order": order,
            }
    raise _inexpressible(processor, "its channels are not those of the picture")


def _rounded(values: Tensor) -> list[float]:
    """Return the values with six significant digits, which float32 has."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def _geometries(processor: Any, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield possible meanings of the processor's settings: ways to resize and crop to `size`."""
    resample = getattr(processor, "resample", None)
    number = 2 if resample is None else int(resample)
    if not getattr(processor, "do_resize", False) or number >= len(INTERPOLATIONS):
        return
    given, crop = _edges(processor, "size"), _edges(processor, "crop_size")
    exact = (given.get("height", 0), given.get("width", 0))
    share = getattr(processor, "crop_pct", None)
    common: dict[str, Any] = {"interpolation": INTERPOLATIONS[number]}
    for short in filter(None, (given.get("shortest_edge"), exact[0])):
        enlarged = [int(short / share)] if share else []
        for edge in (short, *enlarged, int(LEVIT * short)):
            cropped = {"crop_mode": "center", "crop_pct": min(1.0, min(size) / edge)}
            yield {**common, **cropped, "resize": edge}
    if all(exact) and exact != size:
        cropped = {"crop_mode": "center", "crop_pct": min(1.0, min(size) / min(exact))}
        yield {**common, **cropped, "resize": exact}
    yield {**common, "crop_mode": "squash", "crop_pct": 1.0}
    if crop.get("height"):
        yield {**common, "crop_mode": "inner", "crop_pct": min(1.0, size[0] / crop["height"])}


def _edges(processor: Any, name: str) -> dict[str, int]:
    """Return a processor's size setting `name` as lengths by name, such as `height`."""
    given = getattr(processor, name, None)
    if isinstance(given, int):
        return {"height": given, "width": given}
    return {key: int(value) for key, value in dict(given or {}).items() if value}
