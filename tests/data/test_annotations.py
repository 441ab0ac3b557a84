"""Boxes and masks, and what is wrong with them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttame_core.data.annotations.base import BrokenAnnotation, Picture, clip, mask_boxes
from ttame_core.data.annotations.masks import Masks, MasksSettings, read_mask
from ttame_core.data.annotations.voc import voc_boxes

UPRIGHT = Picture((100, 50), (100, 50), 1)


def _voc(*corners: int, size: tuple[int, int] = (100, 50)) -> bytes:
    x0, y0, x1, y1 = corners
    return (
        f"<annotation><path>/wrong.jpg</path><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height></size><object><name>card</name><bndbox><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object></annotation>"
    ).encode()


def _corners(box: dict) -> tuple[float, ...]:
    return tuple(box[c] for c in ("x0", "y0", "x1", "y1"))


def test_voc_counts_from_one_and_is_inclusive() -> None:
    (box,) = voc_boxes(_voc(1, 1, 100, 50), UPRIGHT)
    assert box["name"] == "card"
    assert _corners(box) == (0, 0, 100, 50)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_turn_with_the_picture(orientation: int) -> None:
    stored = np.zeros((50, 100), dtype=np.uint8)
    stored[10:20, 60:90] = 255
    image = Image.fromarray(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    from ttame_core.data.images import decode_image

    shown = np.asarray(decode_image(buffer.getvalue(), "a"))[..., 0]
    ys, xs = np.nonzero(shown > 128)
    (box,) = voc_boxes(_voc(61, 11, 90, 20), Picture((50, 100), (100, 50), orientation))
    assert _corners(box) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_boxes_of_the_displayed_size_are_left_alone() -> None:
    (box,) = voc_boxes(_voc(1, 1, 10, 20, size=(50, 100)), Picture((50, 100), (100, 50), 6))
    assert _corners(box) == (0, 0, 10, 20)


def test_voc_in_a_namespace_of_its_own() -> None:
    (box,) = voc_boxes(_voc(1, 1, 9, 9).replace(b"<annotation", b"<annotation xmlns='x'"), UPRIGHT)
    assert _corners(box) == (0, 0, 9, 9)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no xml <", "not XML"),
        (b"<annotations><image><box/></image></annotations>", "begins with <annotations>"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "document type"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'.encode("utf-16"), "document type"),
        (b"<annotation>\0</annotation>", "not XML"),
        (_voc(1, 1, 2, 2).replace(b"<xmin>1", b"<xmin>one"), "xmin"),
    ],
    ids=["xml", "kind", "doctype", "utf-16", "zero", "number"],
)
def test_broken_voc(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenAnnotation, match=reason):
        voc_boxes(data, UPRIGHT)


def test_clip() -> None:
    box = {"name": "a", "x0": -5, "y0": 10, "x1": 20, "y1": 90}
    assert _corners(clip(box, (100, 50))) == (0, 10, 20, 50)
    with pytest.raises(BrokenAnnotation, match="outside"):
        clip(box | {"x0": 200, "x1": 220}, (100, 50))
    with pytest.raises(BrokenAnnotation, match="empty"):
        clip(box | {"x1": -5}, (100, 50))
    shares = {"x0": 0.1, "y0": 0.0, "x1": 0.6, "y1": 1.0}
    with pytest.raises(BrokenAnnotation, match="shares of the picture's sides"):
        clip(box | shares, (100, 50))
    assert _corners(clip(box | {"x0": 0, "y0": 0, "x1": 1, "y1": 1}, (100, 50))) == (0, 0, 1, 1)


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_masks_give_a_box_per_value() -> None:
    array = np.zeros((50, 100), dtype=np.uint8)
    array[5:10, 20:30], array[40:45, 80:100] = 7, 255
    with pytest.raises(BrokenAnnotation, match=r"255 may be an object or a border: say `void:"):
        read_mask(_png(array), UPRIGHT)
    mask = read_mask(_png(array), UPRIGHT, [])
    assert sorted(np.unique(mask)) == [0, 1, 2]
    boxes = [_corners(b) for b in mask_boxes(mask, "thing")]
    assert boxes == [(20, 5, 30, 10), (80, 40, 100, 45)]
    colours = np.zeros((50, 100, 3), dtype=np.uint8)
    colours[5:10, 20:30] = (255, 0, 0)
    assert [_corners(b) for b in mask_boxes(read_mask(_png(colours), UPRIGHT), "x")] == boxes[:1]


def test_a_mask_in_the_transparency_is_not_passed_over() -> None:
    array = np.zeros((50, 100, 4), dtype=np.uint8)
    array[5:10, 20:30, 3] = 255
    with pytest.raises(BrokenAnnotation, match="in its transparency"):
        read_mask(_png(array), UPRIGHT)
    array[5:10, 20:30, 0] = 9
    (box,) = mask_boxes(read_mask(_png(array), UPRIGHT), "x")
    assert _corners(box) == (20, 5, 30, 10)


def test_a_value_cannot_tell_objects_apart() -> None:
    array = np.zeros((50, 100), dtype=np.uint8)
    array[5:10, 20:30] = array[40:45, 80:100] = 255
    mask = read_mask(_png(array), UPRIGHT)
    assert [_corners(b) for b in mask_boxes(mask, "x")] == [(20, 5, 30, 10), (80, 40, 100, 45)]


def test_void_is_no_object() -> None:
    array = np.zeros((50, 100), dtype=np.uint8)
    array[4:11, 19:31] = 255
    array[5:10, 20:30] = 3
    image = Image.fromarray(array, "P")
    image.putpalette(list(range(256)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    inner = [(20, 5, 30, 10)]
    for data in (buffer.getvalue(), _png(array)):
        boxes = mask_boxes(read_mask(data, UPRIGHT, [255]), "x")
        assert [_corners(b) for b in boxes] == inner
        assert len(mask_boxes(read_mask(data, UPRIGHT, []), "x")) == 2
    with pytest.raises(BrokenAnnotation, match=r"say `void: \[255\]`"):
        read_mask(buffer.getvalue(), UPRIGHT)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_a_mask_of_the_stored_size_is_turned(orientation: int) -> None:
    stored = np.zeros((50, 100), dtype=np.uint8)
    stored[10:20, 60:90] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(stored * 255).save(buffer, "PNG", exif=exif)
    from ttame_core.data.images import decode_image

    shown = np.asarray(decode_image(buffer.getvalue(), "a"))[..., 0] > 0
    mask = read_mask(_png(stored), Picture((50, 100), (100, 50), orientation))
    assert np.array_equal(mask > 0, shown)


@pytest.mark.parametrize("kind", ["JPEG", "BMP"])
def test_other_files_than_png_are_no_masks(kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (100, 50)).save(buffer, kind)
    with pytest.raises(BrokenAnnotation, match=f"is a {kind} file"):
        read_mask(buffer.getvalue(), UPRIGHT)
    suffix = {"JPEG": "jpg", "BMP": "bmp"}[kind]
    (tmp_path / f"1.{suffix}").write_bytes(buffer.getvalue())
    (listed,) = Masks(MasksSettings(path=str(tmp_path))).listed()
    assert (listed.name, listed.reason) == (f"1.{suffix}", "masks are PNG files")


def test_more_objects_than_numbers() -> None:
    array = np.arange(50 * 100).reshape(50, 100).astype(np.uint16)
    with pytest.raises(BrokenAnnotation, match="4999 objects"):
        read_mask(_png(array), UPRIGHT)


def test_voc_of_another_size() -> None:
    (box,) = voc_boxes(_voc(21, 11, 40, 20, size=(200, 100)), UPRIGHT)
    assert _corners(box) == (10, 5, 20, 10)
    with pytest.raises(BrokenAnnotation, match="100×100"):
        voc_boxes(_voc(21, 11, 40, 20, size=(100, 100)), UPRIGHT)
    (box,) = voc_boxes(_voc(1, 1, 9, 9, size=(0, 0)), UPRIGHT)
    assert _corners(box) == (0, 0, 9, 9)
    with pytest.raises(BrokenAnnotation, match="EXIF orientation 3"):
        voc_boxes(_voc(1, 1, 9, 9), Picture((100, 50), (100, 50), 3))


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(BrokenAnnotation, match="10×10"):
        read_mask(_png(np.zeros((10, 10), dtype=np.uint8)), UPRIGHT)
