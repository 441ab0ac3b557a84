"""COCO files to the numbers: whose box it is, where it lies, and what a perfect map scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PLAIN, shard_all

from ttame_core import spec
from ttame_core.data.annotations.segmentation import region
from ttame_core.data.index import load_shards
from ttame_core.data.loader import Batch, load_batches
from ttame_core.data.objects import inside_boxes, object_pixels
from ttame_core.errors import UserError
from ttame_core.lake import Lake, dataset_file
from ttame_core.metrics.contours import contour_ious
from ttame_core.metrics.localization import energy_in_box, pointing_game

# The orientations in which a picture of 100×60 is stored, and where 10, 5 to 30, 25 then lies.
TURNED = {
    5: (5, 10, 25, 30),
    6: (35, 10, 55, 30),
    7: (35, 70, 55, 90),
    8: (5, 70, 25, 90),
}


def picture(path: Path, size: tuple[int, int] = (64, 64), orientation: int = 1) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    seed = sum(map(ord, str(path)))
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    return str(path)


def coco(path: Path, images: Sequence[dict], objects: Sequence[dict]) -> str:
    annotations = [{"category_id": 1, **thing} for thing in objects]
    content = {"images": images, "annotations": annotations}
    path.write_text(json.dumps({**content, "categories": [{"id": 1, "name": "cat"}]}))
    return str(path)


def shard(tmp_path: Path, source: Any, annotations: Any, kind: str = "coco") -> Lake:
    lake = Lake(tmp_path / "lake")
    section = {
        "name": "d",
        "source": {"kind": "folder", "path": source},
        "annotations": {"kind": kind, "path": annotations},
        "splits": {"test": 1},
    }
    shard_all(spec.Dataset.model_validate(section), lake)
    return lake


def boxes(lake: Lake) -> list[tuple[float, ...]]:
    rows = lake.read_table(dataset_file("d", "annotations.parquet")).to_pylist()
    return sorted(tuple(row[c] for c in ("x0", "y0", "x1", "y1")) for row in rows)


def rejected(lake: Lake) -> dict[str, str]:
    rows = lake.read_table(dataset_file("d", "rejected.parquet")).to_pylist()
    return {row["path"]: row["reason"] for row in rows}


def loaded(lake: Lake, size: tuple[int, int]) -> Batch:
    """All pictures, in a view of their own (width, height)."""
    names = [shard.shard for shard in load_shards(lake, "d")]
    view = PLAIN.from_config({**vars(PLAIN), "input_size": (3, *size[::-1])})
    (batch,) = load_batches(lake, "d", names, view, 16, 1)
    return batch


def check_perfect(batch: Batch) -> None:
    """Maps that are the annotated objects have the best pointing game and box IoU."""
    size = batch.images.shape[2:]
    objects = object_pixels(batch.boxes, batch.masks, size)
    assert pointing_game(objects.float(), objects).tolist() == [1.0] * len(objects)
    assert energy_in_box(objects.float(), batch.boxes).tolist() == [1.0] * len(objects)
    largest, best = contour_ious(inside_boxes(batch.boxes, size).float(), batch.boxes)
    assert largest[:, 0].tolist() == best[:, 0].tolist() == [1.0] * len(objects)


BOX = {"image_id": 1, "bbox": [10, 5, 20, 20]}


@pytest.mark.parametrize("orientation", TURNED)
def test_boxes_and_masks_turn_with_the_picture(tmp_path: Path, orientation: int) -> None:
    picture(tmp_path / "images/cat/r.jpg", (100, 60), orientation)
    record = {"id": 1, "file_name": "r.jpg", "width": 100, "height": 60}
    polygon = [[10, 5, 30, 5, 30, 25, 10, 25]]
    path = coco(tmp_path / "c.json", [record], [{**BOX, "segmentation": polygon}])
    lake = shard(tmp_path, str(tmp_path / "images"), path)
    assert boxes(lake) == [TURNED[orientation]]
    batch = loaded(lake, (60, 100))
    check_perfect(batch)
    x0, y0, x1, y1 = TURNED[orientation]
    expected = torch.zeros(100, 60)
    expected[y0:y1, x0:x1] = 1
    assert torch.equal(batch.masks[0].float(), expected)


@pytest.mark.parametrize(
    ("orientation", "size", "record"),
    [
        (3, (100, 60), {"width": 100, "height": 60}),
        (6, (64, 64), {"width": 64, "height": 64}),
        (6, (100, 60), {}),
    ],
)
def test_a_turn_that_cannot_be_known_is_said(
    tmp_path: Path, orientation: int, size: tuple[int, int], record: dict
) -> None:
    picture(tmp_path / "images/cat/r.jpg", size, orientation)
    path = coco(tmp_path / "c.json", [{"id": 1, "file_name": "r.jpg", **record}], [BOX])
    lake = shard(tmp_path, str(tmp_path / "images"), path)
    assert boxes(lake) == []
    assert f"EXIF orientation {orientation}" in rejected(lake)["r.jpg"]


def test_boxes_of_the_displayed_picture_stay(tmp_path: Path) -> None:
    picture(tmp_path / "images/cat/r.jpg", (100, 60), 6)
    record = {"id": 1, "file_name": "r.jpg", "width": 60, "height": 100}
    path = coco(tmp_path / "c.json", [record], [BOX])
    assert boxes(shard(tmp_path, str(tmp_path / "images"), path)) == [(10, 5, 30, 25)]


def test_boxes_of_another_size_are_scaled_or_rejected(tmp_path: Path) -> None:
    for name, size in (("1.jpg", (64, 48)), ("2.jpg", (64, 64)), ("3.jpg", (50, 30))):
        picture(tmp_path / "images/cat" / name, size, 6 if name == "3.jpg" else 1)
    large = {"width": 640, "height": 480}
    records = [
        {"id": 1, "file_name": "1.jpg", **large},
        {"id": 2, "file_name": "2.jpg", **large},
        {"id": 3, "file_name": "3.jpg", "width": 100, "height": 60},
    ]
    objects = [{**BOX, "image_id": number} for number in (1, 2, 3)]
    lake = shard(tmp_path, str(tmp_path / "images"), coco(tmp_path / "c.json", records, objects))
    assert boxes(lake) == [(1.0, 0.5, 3.0, 2.5), (17.5, 5.0, 27.5, 15.0)]
    assert rejected(lake) == {
        "2.jpg": "the annotation is of a picture of 640×480 pixels, the image has 64×64"
    }


def test_a_crowd_is_no_object(tmp_path: Path) -> None:
    picture(tmp_path / "images/cat/1.jpg")
    runs = {"size": [64, 64], "counts": [0, 4096]}
    crowd = {"image_id": 1, "bbox": [0, 0, 64, 64], "iscrowd": 1, "segmentation": runs}
    path = coco(tmp_path / "c.json", [{"id": 1, "file_name": "1.jpg"}], [BOX, crowd])
    lake = shard(tmp_path, str(tmp_path / "images"), path)
    assert boxes(lake) == [(10, 5, 30, 25)]
    check_perfect(loaded(lake, (64, 64)))


def test_an_id_given_twice_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "images/cat/1.jpg")
    records = [{"id": 1, "file_name": "1.jpg"}, {"id": 1, "file_name": "2.jpg"}]
    path = coco(tmp_path / "c.json", records, [BOX])
    with pytest.raises(UserError, match=r"two images of .*c\.json have the id 1"):
        shard(tmp_path, str(tmp_path / "images"), path)


def test_two_records_of_one_file_are_one(tmp_path: Path) -> None:
    picture(tmp_path / "images/cat/1.jpg")
    records = [
        {"id": 1, "file_name": "1.jpg", "width": 64, "height": 64},
        {"id": 2, "file_name": "1.jpg", "width": 128, "height": 128},
    ]
    objects = [BOX, {"image_id": 2, "bbox": [60, 60, 18, 18]}]
    lake = shard(tmp_path, str(tmp_path / "images"), coco(tmp_path / "c.json", records, objects))
    assert boxes(lake) == [(10, 5, 30, 25), (30, 30, 39, 39)]


def test_each_split_has_its_own_file(tmp_path: Path) -> None:
    """Names and ids begin anew in each; so they do for files of VOC."""
    places, paths = {}, {}
    for number, split in enumerate(("train", "val")):
        picture(tmp_path / split / "cat/1.jpg")
        places[split] = str(tmp_path / split)
        thing = {"image_id": 1, "bbox": [1 + 8 * number, 1, 5, 5]}
        record = {"id": 1, "file_name": "1.jpg"}
        paths[split] = coco(tmp_path / f"{split}.json", [record], [thing])
    lake = shard(tmp_path, places, paths)
    assert boxes(lake) == [(1, 1, 6, 6), (9, 1, 14, 6)]
    rows = lake.read_table(dataset_file("d", "index.parquet")).to_pylist()
    by_split = {row["split"]: row["key"] for row in rows}
    rows = lake.read_table(dataset_file("d", "annotations.parquet")).to_pylist()
    assert {row["key"]: row["x0"] for row in rows} == {by_split["train"]: 1, by_split["val"]: 9}


def test_names_that_differ_in_their_suffix_alone(tmp_path: Path) -> None:
    picture(tmp_path / "images/cat/1.jpg")
    picture(tmp_path / "images/cat/1.png")
    records = [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "1.jpg"}]
    path = coco(tmp_path / "c.json", records, [BOX])
    lake = shard(tmp_path, str(tmp_path / "images"), path)
    (row,) = lake.read_table(dataset_file("d", "annotations.parquet")).to_pylist()
    index = lake.read_table(dataset_file("d", "index.parquet")).to_pylist()
    assert {r["path"] for r in index if r["key"] == row["key"]} == {"cat/1.png"}


def test_what_cannot_be_read_is_named_and_the_rest_is_taken(tmp_path: Path) -> None:
    picture(tmp_path / "images/cat/1.jpg")
    records = [{"id": 1, "file_name": "1.jpg"}, {"id": 7}, {"id": [], "file_name": "x.jpg"}]
    objects = [
        BOX,
        {"id": 20, "image_id": 1, "bbox": [1, 2, 3]},
        {"id": 21, "image_id": 1, "bbox": [1, 2, float("nan"), 4]},
        {"id": 22, "image_id": 9, "bbox": [1, 2, 3, 4]},
        {"id": 23, "image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]},
        {"id": 24, "image_id": 1},
    ]
    lake = shard(tmp_path, str(tmp_path / "images"), coco(tmp_path / "c.json", records, objects))
    assert boxes(lake) == [(10, 5, 30, 25)]
    numbers = [f"annotation {number}" for number in range(20, 25)]
    assert rejected(lake).keys() == {"image 7", "image []", *numbers}
    assert "no image 9" in rejected(lake)["annotation 22"]


def test_masks_of_polygons_and_runs(tmp_path: Path) -> None:
    picture(tmp_path / "images/cat/1.jpg", (10, 8))
    record = {"id": 1, "file_name": "1.jpg", "width": 10, "height": 8}
    triangle = {"image_id": 1, "bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 0, 4]]}
    runs = {"size": [8, 10], "counts": [50, 2, 6, 2, 20]}  # rows 2 and 3 of columns 6 and 7
    objects = [triangle, {"image_id": 1, "segmentation": runs}]
    lake = shard(tmp_path, str(tmp_path / "images"), coco(tmp_path / "c.json", [record], objects))
    assert boxes(lake) == [(0, 0, 4, 4), (6, 2, 8, 4)]
    batch = loaded(lake, (10, 8))
    expected = np.zeros((8, 10), np.uint8)
    for row, width in enumerate((3, 2, 1)):  # the pixels whose centres lie inside
        expected[row, :width] = 1
    expected[2:4, 6:8] = 2
    assert batch.masks[0].tolist() == expected.tolist()


def test_a_picture_without_all_its_masks_has_none(tmp_path: Path) -> None:
    picture(tmp_path / "images/cat/1.jpg")
    thing = {**BOX, "segmentation": [[10, 5, 30, 5, 30, 25]]}
    other = {"image_id": 1, "bbox": [40, 40, 9, 9], "segmentation": []}
    path = coco(tmp_path / "c.json", [{"id": 1, "file_name": "1.jpg"}], [thing, other])
    lake = shard(tmp_path, str(tmp_path / "images"), path)
    batch = loaded(lake, (64, 64))
    assert batch.masks == [None]
    assert len(batch.boxes[0]) == 2


def test_compressed_runs() -> None:
    """The text is that of the COCO API for a disc of radius 4 around 9, 5 in 20×12 pixels."""
    rows, columns = np.mgrid[:12, :20]
    disc = (rows - 5) ** 2 + (columns - 9) ** 2 <= 16
    text = "Q2194M2O0O20N101N3LU2"
    segmentation = {"size": [12, 20], "counts": text}
    assert np.array_equal(region(segmentation, (20, 12)), disc)
    with pytest.raises(ValueError, match="20×12"):
        region(segmentation, (12, 20))
    with pytest.raises(ValueError, match="run lengths"):
        region({"size": [12, 20], "counts": text[:-3]}, (20, 12))


@pytest.mark.parametrize("seed", range(20))
def test_regions_are_those_of_pycocotools(seed: int) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    pixels = rng.random((13, 17)) < rng.random()
    encoded = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    segmentation = {"size": [13, 17], "counts": encoded["counts"].decode()}
    assert np.array_equal(region(segmentation, (17, 13)), pixels)
    angles = np.sort(rng.random(9)) * 2 * np.pi
    around = np.array([np.cos(angles), np.sin(angles)]).T
    polygon = (32 + (5 + 20 * rng.random((9, 1))) * around).ravel().tolist()
    own = mask.decode(mask.frPyObjects([polygon], 64, 64))[..., 0] > 0
    ours = region([polygon], (64, 64))
    assert (own & ours).sum() > 0.93 * (own | ours).sum()  # they differ in pixels of the border
