"""Every kind of image file gives the right pixels, or a reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from tiny import jpeg

from ttame_core.data.images import (
    DECODERS,
    BrokenImage,
    decode_image,
    is_image,
    is_other,
    may_be_image,
    stored,
)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _bomb() -> bytes:
    """A PNG that says it has 30,000 × 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(header))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 100)
        + b"IDAT"
        + bytes(104)
    )


def test_plain_jpeg_and_one_pixel() -> None:
    assert decode_image(jpeg((40, 30)), "a").size == (40, 30)
    assert decode_image(_encoded(Image.new("RGB", (1, 1), "blue"), "PNG"), "a").size == (1, 1)


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    decoded = decode_image(_encoded(image, "JPEG"), "a")
    assert decoded.mode == "RGB"
    red, green, blue = decoded.getpixel((4, 4))
    assert red > 200 > 60 > green
    assert blue < 60


def test_sixteen_bit_greyscale_is_scaled_not_clipped() -> None:
    array = np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16)
    decoded = np.asarray(decode_image(_encoded(Image.fromarray(array), "PNG"), "a"))
    assert decoded[0].tolist() == [[v, v, v] for v in (0, 1, 128, 255)]


def test_dark_sixteen_bit_greyscale_stays_dark() -> None:
    array = np.full((2, 2), 200, dtype=np.uint16)
    decoded = np.asarray(decode_image(_encoded(Image.fromarray(array), "PNG"), "a"))
    assert decoded.max() <= 1


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 1), 1)
    data = _encoded(image, "PNG", transparency=0)
    decoded = decode_image(data, "a")
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((1, 1)) == (0, 0, 255)
    half = decode_image(_encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG"), "a")
    assert half.getpixel((0, 0)) == (255, 255, 255)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (6, 6), c) for c in ("red", "green")]
    data = _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, "a").getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 10, 20))  # left end
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90° clockwise to display
    data = _encoded(image, "JPEG", exif=exif)
    decoded = decode_image(data, "a")
    assert decoded.size == (20, 40)
    assert decoded.getpixel((10, 2))[0] > 200  # the left end is on top
    assert decoded.getpixel((10, 37))[0] < 60
    assert stored(data, "a") == ((40, 20), 6)
    exif[0x0112] = 99  # there is no such orientation
    assert stored(_encoded(image, "JPEG", exif=exif), "a") == ((40, 20), 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda: b"", "empty"),
        (lambda: b"this is a text", "not an image"),
        (lambda: jpeg((200, 200))[:-60], "truncated"),
        (_bomb, "decompression bomb"),
        (lambda: _encoded(Image.new("RGB", (50, 50)), "PNG")[:60], ""),
    ],
    ids=["empty", "text", "truncated", "bomb", "png"],
)
def test_what_cannot_be_decoded_has_a_reason(data: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(BrokenImage) as caught:
        decode_image(data(), "picture.jpg")
    assert reason in caught.value.reason
    assert caught.value.reason
    assert "picture.jpg" in str(caught.value)


def _png(width: int, height: int) -> bytes:
    """A PNG of one colour, some hundred bytes whatever its size."""
    return _encoded(Image.new("1", (width, height)), "PNG")


def _flipped(kind: str) -> Iterator[bytes]:
    """A picture with each of its bits flipped in turn."""
    whole = _encoded(Image.new("RGB", (9, 7), "red"), kind)
    for place in range(len(whole)):
        for bit in range(8):
            yield whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]


@pytest.mark.parametrize("kind", ["ICO", "ICNS", "DDS", "BLP", "SPIDER", "EPS", "TGA", "SGI"])
def test_other_formats_are_not_opened_whatever_their_name(kind: str) -> None:
    image = Image.new("P" if kind == "BLP" else "RGB", (16, 16))
    image = image.convert("F") if kind == "SPIDER" else image
    with pytest.raises(BrokenImage, match="not an image of a known format"):
        decode_image(_encoded(image, kind), "picture.jpg")


@pytest.mark.parametrize("kind", [name for name in DECODERS if name in Image.SAVE])
def test_no_flipped_bit_raises_anything_else(kind: str) -> None:
    for number, data in enumerate(_flipped(kind)):
        if number % 5 == 0:
            for read in (decode_image, stored):
                with suppress(BrokenImage):
                    read(data, "a")


@pytest.mark.parametrize("size", [(2, 60_000), (60_000, 2), (1, 31_000_000)])
def test_strips_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BrokenImage, match="one side is more than 50 times the other"):
        decode_image(_png(*size), "strip.png")
    assert decode_image(_png(50, 1), "strip.png").size == (50, 1)


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), TypeError("x"), RuntimeError("x")])
def test_whatever_a_decoder_raises_is_a_broken_image(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    for read in (decode_image, stored):
        with pytest.raises(BrokenImage, match=type(error).__name__):
            read(jpeg(), "a")


def test_which_files_are_images() -> None:
    assert all(is_image(n) for n in ("a.jpg", "x/B.JPG", "c.webp", "d.Png", "e.jpe", "f.AVIF"))
    assert not any(is_image(n) for n in ("a.txt", ".a.jpg", "x/.hidden.png", "jpg"))


def test_pictures_are_known_by_their_content() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM"):
        data = _encoded(Image.new("RGB", (9, 7), (250, 0, 0)), kind)
        assert may_be_image(data[:32]), kind
        assert decode_image(data, "a").getpixel((4, 3))[0] > 240
    assert not any(map(may_be_image, (b"", b"a text", b"<svg/>", b"%PDF-1.7")))
    deep = np.array([[0, 32_896, 65_535]], dtype=np.uint16)
    for kind in ("PPM", "JPEG2000"):
        decoded = decode_image(_encoded(Image.fromarray(deep), kind), "a")
        assert [decoded.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("name", ["a.txt", "b.json", "c.xml", "d.CSV", "e.mp4", "f.html", "g.zip"])
def test_names_of_other_things(name: str) -> None:
    assert is_other(name)


@pytest.mark.parametrize("name", ["a", "b.dat", "c.bin", "d.jpg_original", "e.svg", "f.0001"])
def test_names_that_tell_nothing(name: str) -> None:
    assert not is_other(name)
