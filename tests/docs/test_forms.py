"""Each form of data on the page is made, and taken, left out or refused as the page says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from forms import Row, Table
from PIL import Image
from tiny import jpeg, shard_all

from ttame_core import spec
from ttame_core.errors import UserError
from ttame_core.lake import Lake

PICTURES, ANNOTATIONS = Table("Pictures"), Table("Annotations")
Section = dict[str, Any]


def pictures(here: Path, *names: str) -> Path:
    """Put a picture under each name, of which no two are alike."""
    for number, name in enumerate(names):
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg((40, 30), f"#{100 + 10 * number:02x}{len(name):02x}10"))
    return here


def _folder(here: Path) -> Section:
    return {"kind": "folder", "path": str(here)}


def _text(here: Path, kind: str, text: str, encoding: str = "utf-8") -> Section:
    pictures(here, "a.jpg", "b.jpg")
    (here / "m.csv").write_text(text, encoding=encoding)
    root = {"root": str(here)} if kind == "list" else {}
    return {"kind": kind, "path": str(here / "m.csv"), **root}


@PICTURES.example("a folder for each class")
def _(here: Path) -> Section:
    return _folder(pictures(here, "cats/1.jpg", "dogs/1.jpg"))


@PICTURES.example("a folder for each class, in a folder for each split")
def _(here: Path) -> Section:
    pictures(here, "x/cats/1.jpg", "y/cats/1.jpg")
    return {"kind": "folder", "path": {"train": str(here / "x"), "test": str(here / "y")}}


@PICTURES.example("pictures in one folder, without classes")
def _(here: Path) -> Section:
    return _folder(pictures(here, "1.jpg", "2.jpg"))


@PICTURES.example("pictures that a pattern finds")
def _(here: Path) -> Section:
    return {"kind": "glob", "path": f"{pictures(here, 'x/1.jpg', 'y/2.jpg')}/**/*.jpg"}


@PICTURES.example("a list of paths and labels")
def _(here: Path) -> Section:
    return _text(here, "list", "a.jpg 0\nb.jpg 1\n")


@PICTURES.example("a list of paths")
def _(here: Path) -> Section:
    return _text(here, "list", "a.jpg\nb.jpg\n")


@PICTURES.example("a CSV file with a row for each picture")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path,label\na.jpg,cat\nb.jpg,dog\n")


@PICTURES.example("a CSV file without labels")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path\na.jpg\nb.jpg\n")


@PICTURES.example("a CSV file with an empty label")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path,label\na.jpg,cat\nb.jpg,\n")


@PICTURES.example("a CSV file that is not UTF-8")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path,label\na.jpg,café\nb.jpg,dog\n", "latin-1")


@PICTURES.example("a Parquet file with a path in each row")
def _(here: Path) -> Section:
    pictures(here, "a.jpg", "b.jpg")
    table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]})
    table.to_parquet(here / "m.parquet")
    return {"kind": "manifest", "path": str(here / "m.parquet")}


@PICTURES.example("a picture that is listed twice")
def _(here: Path) -> Section:
    return _text(here, "list", "a.jpg 0\nb.jpg 1\na.jpg 1\n")


@PICTURES.example("a picture that is named and is not there")
def _(here: Path) -> Section:
    return _text(here, "list", "a.jpg 0\nc.jpg 1\n")


@PICTURES.example("a picture beside class folders")
def _(here: Path) -> Section:
    return _folder(pictures(here, "cats/1.jpg", "1.jpg"))


@PICTURES.example("a class folder without pictures")
def _(here: Path) -> Section:
    (here / "dogs").mkdir()
    return _folder(pictures(here, "cats/1.jpg"))


@PICTURES.example("a file that is cut off")
def _(here: Path) -> Section:
    pictures(here, "cats/1.jpg")
    (here / "cats/2.jpg").write_bytes(jpeg((200, 200))[:-60])
    return _folder(here)


@PICTURES.example("a picture of which one side is 51 times the other")
def _(here: Path) -> Section:
    pictures(here, "cats/1.jpg")
    (here / "cats/2.jpg").write_bytes(jpeg((510, 10)))
    return _folder(here)


def _coco(here: Path, images: list[Section], **thing: object) -> Section:
    content = {
        "images": images,
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], **thing}],
    }
    (here / "coco.json").write_text(json.dumps(content))
    return {"kind": "coco", "path": str(here / "coco.json")}


ONE = {"id": 1, "file_name": "1.jpg"}


@ANNOTATIONS.example("a COCO file with boxes")
def _(here: Path) -> Section:
    return _coco(here, [ONE])


@ANNOTATIONS.example("a COCO file with polygons")
def _(here: Path) -> Section:
    return _coco(here, [ONE], segmentation=[[5, 5, 15, 5, 15, 15]])


@ANNOTATIONS.example("a COCO file with run lengths")
def _(here: Path) -> Section:
    counts = [150, 10, 20, 10, 30 * 40 - 190]
    return _coco(here, [ONE], segmentation={"size": [30, 40], "counts": counts})


@ANNOTATIONS.example("a COCO file with a picture's id twice")
def _(here: Path) -> Section:
    return _coco(here, [ONE, {"id": 1, "file_name": "2.jpg"}])


@ANNOTATIONS.example("a COCO file that is not JSON")
def _(here: Path) -> Section:
    (here / "coco.json").write_text("images: []")
    return {"kind": "coco", "path": str(here / "coco.json")}


def _voc(here: Path, before: str = "", name: str = "1.xml") -> Section:
    (here / "xml").mkdir()
    box = "<xmin>6</xmin><ymin>6</ymin><xmax>15</xmax><ymax>15</ymax>"
    (here / "xml" / name).write_text(
        f"{before}<annotation><size><width>40</width><height>30</height></size>"
        f"<object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    )
    return {"kind": "voc", "path": str(here / "xml")}


@ANNOTATIONS.example("an XML file of PASCAL VOC for each picture")
def _(here: Path) -> Section:
    return _voc(here)


@ANNOTATIONS.example("XML with a document type")
def _(here: Path) -> Section:
    return _voc(here, before="<!DOCTYPE annotation>")


@ANNOTATIONS.example("an annotation that fits no picture")
def _(here: Path) -> Section:
    return _voc(here, name="9.xml")


def _masks(here: Path, kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> Section:
    mask = np.zeros(size[::-1], np.uint8)
    mask[5:15, 5:15] = 1
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, kind)
    (here / "masks").mkdir()
    suffix = {"PNG": "png", "JPEG": "jpg"}[kind]
    (here / f"masks/1.{suffix}").write_bytes(stream.getvalue())
    return {"kind": "masks", "path": str(here / "masks")}


@ANNOTATIONS.example("a PNG mask for each picture")
def _(here: Path) -> Section:
    return _masks(here)


@ANNOTATIONS.example("a mask of another size than its picture")
def _(here: Path) -> Section:
    return _masks(here, size=(20, 20))


@ANNOTATIONS.example("masks in JPEG files")
def _(here: Path) -> Section:
    return _masks(here, "JPEG")


def _become(lake: Lake, **section: object) -> tuple[str, str, list[dict]]:
    """What becomes of a data set: outcome, sentence or reasons, and rows of its boxes."""
    try:
        shard_all(spec.Dataset.model_validate({"name": "d", **section}), lake)
    except UserError as error:
        return "refused", str(error), []
    index, boxes, rejected = (
        lake.read_table(f"datasets/d/{name}.parquet").to_pylist()
        for name in ("index", "annotations", "rejected")
    )
    assert index
    reasons = "; ".join(row["reason"] for row in rejected)
    return ("left out" if rejected else "taken"), reasons, boxes


@pytest.mark.parametrize("row", PICTURES.rows, ids=str)
def test_pictures(row: Row, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    source = PICTURES.make(row, tmp_path / "here")
    outcome, said, _ = _become(Lake(tmp_path / "lake"), source=source)
    row.check(outcome, said)


@pytest.mark.parametrize("row", ANNOTATIONS.rows, ids=str)
def test_annotations(row: Row, tmp_path: Path) -> None:
    pictures(tmp_path, "here/cat/1.jpg", "here/cat/2.jpg")
    source, annotations = _folder(tmp_path / "here"), ANNOTATIONS.make(row, tmp_path)
    lake = Lake(tmp_path / "lake")
    outcome, said, boxes = _become(lake, source=source, annotations=annotations)
    row.check(outcome, said)
    if outcome == "taken":
        (box,) = boxes
        assert [box[corner] for corner in ("x0", "y0", "x1", "y1")] == [5, 5, 15, 15]


@pytest.mark.parametrize("table", [PICTURES, ANNOTATIONS], ids=["pictures", "annotations"])
def test_every_row_has_an_example(table: Table) -> None:
    table.check_complete()
