"""Decoding of image files to RGB pixels, as a viewer would show them."""

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
    return bool(HEIF.match(start)) or any(accept(start) for accept in accepting)


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode an image as displayed, to RGB.

    The EXIF orientation is applied, the first frame is taken, transparent pixels are put on white,
    and 16-bit greyscale is scaled to 8 bits.

    Args:
        data: content of the file.
        name: name of the image, for errors.

    Raises:
        BrokenImage: the image cannot be decoded to its end.
    """
    with _decoding(data, name):
        image = _open(data, name)
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


def stored(data: bytes, name: str) -> tuple[tuple[int, int], int]:
    """Return the stored (width, height) of an image in pixels, and its EXIF orientation, 1 to 8.

    Raises:
        BrokenImage: the header cannot be read.
    """
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
        max_size: longest side, in pixels, of a picture that is small enough; None for any.

    Raises:
        BrokenImage: the picture cannot be decoded to its end.
    """
    image = decode_image(data, name)
    size = smaller_size = image.size
    smaller = None
    scale = (max_size or max(size)) / max(size)
    if scale < 1:
        smaller_size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        smaller = to_jpeg(image.resize(smaller_size, Image.Resampling.LANCZOS))
    stored_size, orientation = stored(data, name)
    return Examined(size, stored_size, orientation, _suffix(data), smaller, smaller_size)


def _suffix(data: bytes) -> str:
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
    top = array.max(initial=0)
    white = 65535 if image.mode.startswith("I;16") or top > 255 else 1 if top <= 1 else 255
    array.clip(0, white, out=array)  # in place: a picture may have 179 million pixels
    array *= 255 / white
    return Image.fromarray(array.round(out=array).astype(np.uint8))
