"""Pictures of several labels: each label has its own objects, from the source to a batch."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PLAIN, jpeg, shard_all

from ttame_core import spec
from ttame_core.audits.readiness import check_data
from ttame_core.data.index import load_classes, load_shards
from ttame_core.data.loader import Batch, load_batches
from ttame_core.data.plan import plan_shards
from ttame_core.data.shapes import draw_sample
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec

SIZES = {"train": 0, "val": 0, "test": 6, "size": 64}
PERSON, CAT, DOG = [2, 2, 8, 8], [10, 10, 12, 12], [40, 30, 16, 20]  # x, y, width, height


def _coco(here: Path, masks: bool) -> dict[str, Any]:
    """COCO objects of a picture of 64 pixels: a person, a cat and two dogs, one of them outside."""
    things = [("person", PERSON), ("cat", CAT), ("dog", [70, 70, 5, 5]), ("dog", DOG)]
    names = ["cat", "dog", "person"]
    annotations = [
        {"image_id": 1, "category_id": names.index(name), "bbox": box}
        | ({"segmentation": [_corners(box)]} if masks else {})
        for name, box in things
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 64}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": annotations,
    }
    (here / "coco.json").write_text(json.dumps(content))
    return {"kind": "coco", "path": str(here / "coco.json")}


def _corners(box: list[int]) -> list[int]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _taken(here: Path, source: dict[str, Any], **section: Any) -> tuple[Lake, list[dict]]:
    lake = Lake(here / "lake")
    dataset = {"name": "d", "source": source, "splits": {"test": 1.0}, **section}
    shard_all(spec.Dataset.model_validate(dataset), lake)
    return lake, lake.read_table("datasets/d/index.parquet").to_pylist()


def _batch(lake: Lake) -> Batch:
    (batch,) = load_batches(lake, "d", [s.shard for s in load_shards(lake, "d")], PLAIN, 8, 1)
    return batch


@pytest.fixture
def manifest(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "1.jpg").write_bytes(jpeg((64, 64)))
    (tmp_path / "2.jpg").write_bytes(jpeg((64, 64), "blue"))
    (tmp_path / "m.csv").write_text("path,label\n1.jpg,dog; cat\n2.jpg,cat\n")
    return {"kind": "manifest", "path": str(tmp_path / "m.csv")}


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_each_label_has_its_own_objects(
    tmp_path: Path, manifest: dict[str, Any], masks: bool
) -> None:
    lake, index = _taken(tmp_path, manifest, annotations=_coco(tmp_path, masks))
    assert load_classes(lake, "d") == ["cat", "dog"]
    rows = {row["path"]: row for row in index}
    assert (rows["1.jpg"]["label"], rows["1.jpg"]["class"]) == (1, "dog")
    assert (rows["1.jpg"]["labels"], rows["2.jpg"]["labels"]) == ([1, 0], [0])
    assert (rows["1.jpg"]["classes"], rows["2.jpg"]["classes"]) == (["dog", "cat"], ["cat"])
    batch = _batch(lake)
    first = batch.keys.index(rows["1.jpg"]["key"])
    assert sorted(batch.labels[first].tolist()) == [0, 1]
    assert batch.labels[1 - first].tolist() == [0, -1]
    for target, (x, y, width, height) in ((0, CAT), (1, DOG)):
        assert batch.boxes_of(first, target).tolist() == [[x, y, x + width, y + height]]
        expected = torch.zeros(64, 64, dtype=torch.bool)
        expected[y : y + height, x : x + width] = True
        (pixels,) = batch.objects_of([first], [target])
        if masks:  # the outline of a polygon belongs to it or not
            both = (pixels & expected).sum() / (pixels | expected).sum()
            assert batch.mask_of(first, target) is not None
            assert both > 0.8
        else:
            assert torch.equal(pixels, expected)
    assert not batch.objects_of([first], [2]).any()  # which it does not have
    swapped = batch.at([1 - first, first])
    assert torch.equal(swapped.objects_of([1], [0]), batch.objects_of([first], [0]))


def test_labels_of_annotations(tmp_path: Path, manifest: dict[str, Any]) -> None:
    source = {"kind": "glob", "path": str(tmp_path / "*.jpg")}
    annotations = _coco(tmp_path, masks=False)
    lake, index = _taken(tmp_path, source, annotations=annotations)
    assert [row["labels"] for row in index] == [[], []]
    lake, index = _taken(tmp_path, source, annotations={**annotations, "labels": True})
    assert load_classes(lake, "d") == ["cat", "dog", "person"]
    assert {row["path"]: row["labels"] for row in index} == {"1.jpg": [2, 0, 1], "2.jpg": []}
    (tmp_path / "voc").mkdir()
    things = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for name, (x, y, w, h) in (("dog", DOG), ("cat", CAT))
    )
    (tmp_path / "voc/1.xml").write_text(f"<annotation>{things}</annotation>")
    voc = {"kind": "voc", "path": str(tmp_path / "voc"), "labels": True}
    lake, index = _taken(tmp_path, source, annotations=voc)
    assert {row["path"]: row["labels"] for row in index} == {"1.jpg": [1, 0], "2.jpg": []}
    batch = _batch(lake)
    place = batch.labels[:, 0].argmax().item()
    assert batch.boxes_of(place, 1).tolist() == [[40, 30, 56, 50]]


def test_masks_without_names(tmp_path: Path, manifest: dict[str, Any]) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:9, :9], mask[20:30, 20:30] = 1, 2
    (tmp_path / "masks").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    masks = {"kind": "masks", "path": str(tmp_path / "masks")}
    lake, index = _taken(tmp_path, manifest, annotations=masks)
    assert len(index) == 2
    (row,) = lake.read_table("datasets/d/rejected.parquet").to_pylist()
    assert "which of the picture's labels" in row["reason"]
    boxes = lake.read_table("datasets/d/annotations.parquet").to_pylist()
    assert len(boxes) == 2  # of the picture of one label


def _tar(path: Path, *samples: object) -> None:
    with tarfile.open(path, "w") as writer:
        for number, about in enumerate(samples):
            for suffix, data in (("jpg", jpeg()), ("json", json.dumps(about).encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                writer.addfile(member, io.BytesIO(data))


def test_lists_of_webdataset_and_of_tables(tmp_path: Path) -> None:
    _tar(tmp_path / "0.tar", {"labels": ["cat", "dog"]}, {"labels": ["dog"]}, {"labels": []})
    lake, index = _taken(tmp_path, {"kind": "webdataset", "path": str(tmp_path / "0.tar")})
    found = {row["path"].split("/")[-1]: row["labels"] for row in index}
    assert found == {"0.jpg": [0, 1], "1.jpg": [1], "2.jpg": []}
    again, rows = _taken(
        tmp_path / "again", {"kind": "webdataset", "path": lake.path("datasets/d")}
    )
    assert sorted(row["labels"] for row in rows) == [[0, 1], [1]]  # the one without is left out
    assert load_classes(again, "d") == ["cat", "dog"]
    names = datasets.ClassLabel(names=["zebra", "ant"])
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.Sequence(names)})
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    columns = {"image": images, "labels": [[1, 0], [0]]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "t.parquet")
    lake, index = _taken(tmp_path / "t", {"kind": "table", "path": str(tmp_path / "t.parquet")})
    assert load_classes(lake, "d") == ["zebra", "ant"]
    assert sorted(row["labels"] for row in index) == [[0], [1, 0]]


def test_shapes_of_several_classes(tmp_path: Path) -> None:
    lake, index = _taken(tmp_path, {"kind": "shapes", **SIZES, "labels": 2})
    batch, rows = _batch(lake), {row["key"]: row for row in index}
    for place, key in enumerate(batch.keys):
        sample = draw_sample("test", int(rows[key]["path"].split("/")[1]), size=64, labels=2)
        assert rows[key]["labels"] == list(sample.labels)
        assert len(set(sample.labels)) == 2
        for number, (label, box) in enumerate(zip(sample.labels, sample.boxes, strict=True), 1):
            assert batch.boxes_of(place, label).tolist() == [list(box)]
            pixels = batch.objects_of([place], [label])[0]
            assert np.array_equal(pixels.numpy(), sample.mask == number)


def test_a_classifier_of_one_class_an_image_is_not_trained_on_them(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    def check(**backbone: Any) -> None:
        fitted = {"model": "resnet10t", "fit": {}, **backbone}
        dataset = {"name": "d", "source": manifest, "splits": {"train": 0.5, "test": 0.5}}
        audit = AuditSpec.model_validate(
            {"name": "a", "dataset": dataset, "backbones": [fitted], "explainers": ["gradcam"]}
        )
        plan = plan_shards(audit.dataset, Lake(tmp_path / "lake"))
        assert plan.several
        check_data(audit, plan)

    with pytest.raises(UserError, match="`outputs: sigmoid`"):
        check()
    check(outputs="sigmoid")
