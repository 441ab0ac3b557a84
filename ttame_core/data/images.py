"""Decoding of image files, to RGB pixels as a viewer would show them, or to channels as stored.

An array in a .npy file is a picture as well: (H, W), (H, W, C) or (C, H, W), where the shorter of
the two ends has the channels.
"""

from __future__ import annotations

import io
import mimetypes
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ttame_core.errors import UserError

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "HEIF": (".heic", ".heif", ".hif"),
}
IMAGE_SUFFIXES = frozenset(chain.from_iterable(SUFFIXES.values()))
HEIF = re.compile(rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.S)
# Pillow opens some forty formats whatever a file is called, and for some starts other programs.
Image.preinit()
for plugin in ("Tiff", "WebP", "Avif", "Jpeg2K"):
    import_module(f"PIL.{plugin}ImagePlugin")
if find_spec("pillow_heif"):
    import_module("pillow_heif").register_heif_opener()
DECODERS = tuple(name for name in SUFFIXES if name in Image.OPEN)
EXIF_ORIENTATION = 0x0112
ORIENTATIONS = tuple(range(1, 9))
MAX_PIXELS = 178_956_970  # Pillow's own bound, above which an image counts as decompression bomb
JPEG_QUALITY = 95
NPY = b"\x93NUMPY"
COLOURS = 3  # channels of a picture in colours
NUMBERS = "save numbers of 8 or 16 bits (uint8, uint16), or floats from 0 to 1"
MAX_RATIO = 50  # of the sides: a strip is scaled to a classifier's view by its shorter one
Image.MAX_IMAGE_PIXELS = None  # the bound is checked here, from the header, to give a reason


class BrokenImage(UserError):
    """The error for an image that cannot be decoded.

    Attributes:
        reason: a few words without the image's name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"image {name} cannot be read: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[BrokenImage], tuple[str, str]]:
        return BrokenImage, (self.name, self.reason)


def is_image(path: str) -> bool:
    """Say whether a file's name is an image's: not hidden, and with a suffix such as .jpg."""
    name = PurePosixPath(path.replace("\\", "/"))
    return name.suffix.lower() in IMAGE_SUFFIXES and not name.name.startswith(".")


def is_other(path: str) -> bool:
    """Say whether a file's name is that of something else than an image, such as a text."""
    kind, _ = mimetypes.MimeTypes().guess_type(path)
    return kind not in (None, "application/octet-stream") and not str(kind).startswith("image/")


def may_be_image(start: bytes) -> bool:
    """Say whether a file may be an image by its first 32 bytes, whatever its name is."""
    accepting = [accept for name in DECODERS if (accept := Image.OPEN[name][1])]
    return (
        start.startswith(NPY)
        or bool(HEIF.match(start))
        or any(accept(start) for accept in accepting)
    )


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode an image as displayed, to RGB.

    The EXIF orientation is applied, the first frame is taken, transparent pixels are put on white,
    and 16-bit greyscale is scaled to 8 bits.

    Args:
        data: content of the file.
        name: name of the image, for errors.

    Raises:
        BrokenImage: the image cannot be decoded to its end, or it is an array that is neither grey
            nor of three channels.
    """
    if data.startswith(NPY):
        count = len(decode_channels(data, name))
        if count not in (1, 3):
            raise BrokenImage(name, f"it has {count} channels, and is read as RGB")
    return render_image(data, name)


def render_image(data: bytes, name: str) -> Image.Image:
    """Show an image of any number of channels to readers, in RGB.

    It is as `decode_image` reads it; of an array, the first three channels are shown as red, green
    and blue, or where there are two, the first in grey.

    Args:
        data: content of the file.
        name: name of the image, for errors.

    Raises:
        BrokenImage: the image cannot be decoded to its end.
    """
    if data.startswith(NPY):
        channels = [
            Image.fromarray(np.asarray(np.asarray(channel) * 255).round().astype(np.uint8))
            for channel in decode_channels(data, name)
        ]
        shown = channels[:3] if len(channels) > 2 else channels[:1] * 3
        return Image.merge("RGB", shown)
    with _decoding(data, name):
        image = _open(data, name)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


def decode_for(data: bytes, name: str, count: int) -> Image.Image | list[Image.Image]:
    """Decode an image as a classifier of `count` channels reads it.

    Args:
        data: content of the file.
        name: name of the image, for errors.
        count: number of channels that the classifier takes.

    Returns:
        For three channels a picture in RGB (`decode_image`), else a picture of mode `F` for each
        channel (`decode_channels`).

    Raises:
        BrokenImage: the image cannot be decoded to its end, or has other channels.
    """
    return decode_image(data, name) if count == COLOURS else decode_channels(data, name, count)


def decode_channels(data: bytes, name: str, wanted: int | None = None) -> list[Image.Image]:
    """Decode an image to its channels as they are stored, its EXIF orientation applied.

    The pages of a TIFF are channels. Values of 8 and of 16 bits are divided by the largest that
    there can be; other numbers must be from 0 to 1 in an array, and are scaled by their range, as
    `decode_image` scales them, in other files.

    Args:
        data: content of the file.
        name: name of the image, for errors.
        wanted: number of channels that there must be; a picture in colours becomes grey for 1. None
            for any number.

    Returns:
        For each channel a picture of mode `F`, with values in [0, 1].

    Raises:
        BrokenImage: the image cannot be decoded to its end, or has another number of channels.
    """
    with _decoding(data, name):
        array = _array(data, name) if data.startswith(NPY) else _stored_values(data, name)
        if wanted == 1 and array.shape[2] > 1 and not data.startswith(NPY):
            grey = render_image(data, name).convert("L")
            array = np.asarray(grey, np.float32)[..., None] / 255
        if wanted not in (None, array.shape[2]):
            raise BrokenImage(
                name, f"it has {array.shape[2]} channels, and the classifier takes {wanted}"
            )
        return [
            Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(array, 2, 0)
        ]


def stored(data: bytes, name: str) -> tuple[tuple[int, int], int]:
    """Return the stored (width, height) of an image in pixels, and its EXIF orientation, 1 to 8.

    Raises:
        BrokenImage: the header cannot be read.
    """
    if data.startswith(NPY):
        return decode_channels(data, name)[0].size, 1
    with _decoding(data, name):
        image = _open(data, name)
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        return image.size, orientation if orientation in ORIENTATIONS else 1


@dataclass(frozen=True)
class Picture:
    """The sizes and the orientation of a picture, which annotations refer to.

    Attributes:
        size: (width, height) as displayed, in pixels.
        stored_size: (width, height) before the EXIF orientation is applied, in pixels.
        orientation: orientation as in EXIF, 1 to 8.
    """

    size: tuple[int, int]
    stored_size: tuple[int, int]
    orientation: int


@dataclass(frozen=True)
class Examined(Picture):
    """A picture that can be decoded to its end.

    Attributes:
        suffix: the suffix, without its dot, that the content asks for, such as `png`.
        smaller: the picture as displayed in a smaller JPEG file; None where it is small enough.
        smaller_size: (width, height) of `smaller`, in pixels; `size` where there is none.
    """

    suffix: str
    smaller: bytes | None
    smaller_size: tuple[int, int]


def examine(data: bytes, name: str, max_size: int | None = None) -> Examined:
    """Decode a picture to learn whether and as what it can be used.

    Args:
        data: content of the file.
        name: name of the picture, for errors.
        max_size: longest side, in pixels, of a picture that is small enough; None for any. Pictures
            that a JPEG file cannot hold, of more bits or other channels, stay as they are.

    Raises:
        BrokenImage: the picture cannot be decoded to its end.
    """
    image = render_image(data, name)
    size = smaller_size = image.size
    smaller = None
    scale = (max_size or max(size)) / max(size)
    if scale < 1 and _fits_jpeg(data, name):
        smaller_size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        smaller = to_jpeg(image.resize(smaller_size, Image.Resampling.LANCZOS))
    stored_size, orientation = stored(data, name)
    return Examined(size, stored_size, orientation, _suffix(data), smaller, smaller_size)


def _fits_jpeg(data: bytes, name: str) -> bool:
    if data.startswith(NPY):
        return False
    image = _open(data, name)
    return image.mode[0] not in "IF" and not (image.format == "TIFF" and _pages(image) > 1)


def _suffix(data: bytes) -> str:
    if data.startswith(NPY):
        return "npy"
    name = (_open(data, "").format or "image").lower()
    return "jpg" if name in ("jpeg", "mpo") else name


def to_jpeg(image: Image.Image) -> bytes:
    """Encode a picture as JPEG of JPEG_QUALITY."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def mask_values(data: bytes, name: str, sizes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, str]:
    """Decode a mask to its values as they are stored.

    Args:
        data: content of a PNG file.
        name: name of the mask, for errors.
        sizes: the (width, height) in pixels that it may have, however many it claims.

    Returns:
        The values (H, W), or (H, W, channels) of colours; and Pillow's mode of them.

    Raises:
        BrokenImage: the file is no PNG, has another size, or cannot be decoded to its end.
    """
    with _decoding(data, name):
        image = Image.open(io.BytesIO(data), formats=DECODERS)
        if image.format != "PNG":
            raise BrokenImage(name, f"it is a {image.format} file: masks are PNG files")
        if image.size not in sizes:
            raise BrokenImage(
                name, "it has {}×{} pixels, the image {}×{}".format(*image.size, *sizes[0])
            )
        return np.asarray(image), image.mode


@contextmanager
def _decoding(data: bytes, name: str) -> Iterator[None]:
    """Turn any error of a decoder into BrokenImage: damaged files cause errors of all kinds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BrokenImage:
        raise
    except UnidentifiedImageError as error:
        reason = f"the file is not an image of a known format: {', '.join(DECODERS)}"
        if "HEIF" not in DECODERS and HEIF.match(data):
            reason = "HEIC needs a package: pip install pillow-heif"
        raise BrokenImage(name, reason) from error
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        reason = "truncated" if "truncated" in words.lower() else words or "damaged"
        if isinstance(error, MemoryError):
            reason = "decoding it takes more memory than there is (MemoryError)"
        elif not isinstance(error, OSError | ValueError | SyntaxError):
            reason = f"damaged ({type(error).__name__}: {words})"
        raise BrokenImage(name, reason) from error


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise BrokenImage(name, "the file is empty")
    image = Image.open(io.BytesIO(data), formats=DECODERS)
    width, height = image.size
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BrokenImage(
            name, f"of {width}×{height} pixels one side is more than {MAX_RATIO} times the other"
        )
    if width * height > MAX_PIXELS:
        raise BrokenImage(
            name, f"{width}×{height} pixels are more than {MAX_PIXELS} (a decompression bomb?)"
        )
    return image


def _pages(image: Image.Image) -> int:
    return getattr(image, "n_frames", 1)


def _array(data: bytes, name: str) -> np.ndarray:
    """Return the array in a .npy file, (H, W, C) float32 in [0, 1]."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0
    shape, _, kind = (header if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)
    if len(shape) not in (2, 3) or 0 in shape:
        raise BrokenImage(name, f"its array of {shape} is no picture (height, width, channels)")
    if int(np.prod(shape, dtype=object)) * kind.itemsize > len(data):
        raise BrokenImage(name, "truncated")
    array = np.load(io.BytesIO(data), allow_pickle=False)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[0] < array.shape[2]:
        array = np.moveaxis(array, 0, 2)
    height, width = array.shape[:2]
    if max(height, width) > MAX_RATIO * min(height, width):
        raise BrokenImage(
            name, f"of {width}×{height} pixels one side is more than {MAX_RATIO} times the other"
        )
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.iinfo(array.dtype).max
    low, high = (float(end) for end in (array.min(), array.max()))
    if array.dtype.kind not in "bf" or not (low >= 0 and high <= 1):
        raise BrokenImage(
            name,
            f"its values are {array.dtype} from {low:g} to {high:g}: {NUMBERS}",
        )
    return array.astype(np.float32)


def _stored_values(data: bytes, name: str) -> np.ndarray:
    """Return the values of a picture or of the pages of a TIFF, (H, W, C) float32 in [0, 1]."""
    image = _open(data, name)
    pages = range(_pages(image) if image.format == "TIFF" else 1)
    parts = []
    for page in pages:
        if page:
            image.seek(page)
        one = ImageOps.exif_transpose(image)
        if one.mode in ("1", "P"):
            one = one.convert("L" if one.mode == "1" else "RGB")
        values = np.asarray(one)
        parts.append(values if values.ndim == 3 else values[..., None])
    if len({part.shape[:2] for part in parts}) > 1:
        raise BrokenImage(name, "its pages are not of the same size")
    array = np.concatenate(parts, axis=2)
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.iinfo(array.dtype).max
    array = np.nan_to_num(array.astype(np.float32), posinf=0, neginf=0)
    white = _white(array, image.mode)
    return array.clip(0, white) / white


def _white(array: np.ndarray, mode: str) -> int:
    """Return the value that stands for white in greyscale of more than 8 bits.

    Raises:
        ValueError: there are values for which none does.
    """
    low, top = array.min(initial=0), array.max(initial=0)
    if low < 0 or top > 65535:
        raise ValueError(f"its values are from {low:g} to {top:g}: {NUMBERS}")
    return 65535 if mode.startswith("I;16") or top > 255 else 1 if top <= 1 else 255


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        image = _deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Scale greyscale of more than 8 bits to 8; 32-bit pictures by the range of their values."""
    array = np.array(image, dtype=np.float64)
    np.nan_to_num(array, copy=False, posinf=0, neginf=0)
    white = _white(array, image.mode)
    array.clip(0, white, out=array)  # in place: a picture may have 179 million pixels
    array *= 255 / white
    return Image.fromarray(array.round(out=array).astype(np.uint8))
