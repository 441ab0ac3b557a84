"""Each form of data on the page is made, and taken, left out or refused as the page says."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
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


@PICTURES.example("a CSV file with labels such as `cat;dog`")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path,label\na.jpg,cat;dog\nb.jpg,dog\n")


@PICTURES.example("a CSV file without labels")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path\na.jpg\nb.jpg\n")


@PICTURES.example("a CSV file with semicolons or tabs between its columns")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path;label\na.jpg;black swan\nb.jpg;dog\n")


@PICTURES.example("a CSV file with the label `nan`")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path,label\na.jpg,1.0\nb.jpg,nan\n")


@PICTURES.example("a CSV file with a column `split` of `train`, `valid`, `dev`, `testing`")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path,label,split\na.jpg,cat,train\nb.jpg,dog,valid\n")


@PICTURES.example("a CSV file with a split of another name")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path,label,split\na.jpg,cat,train\nb.jpg,dog,holdout\n")


@PICTURES.example("a CSV file with two columns of one name")
def _(here: Path) -> Section:
    return _text(here, "manifest", "path,label,label\na.jpg,cat,dog\n")


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


@PICTURES.example("`train/` and `val/` in one folder")
def _(here: Path) -> Section:
    return _folder(pictures(here, "train/cats/1.jpg", "val/cats/2.jpg"))


@PICTURES.example("pictures of JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000 and PPM")
def _(here: Path) -> Section:
    kinds = {"jpe": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF"}
    kinds |= {"tif": "TIFF", "avif": "AVIF", "jp2": "JPEG2000", "ppm": "PPM"}
    for suffix, kind in kinds.items():
        with (here / f"1.{suffix}").open("wb") as stream:
            Image.new("RGB", (40, 30), "red").save(stream, kind)
    return _folder(here)


@PICTURES.example("pictures of 16 bits, pages of a TIFF, arrays of NumPy")
def _(here: Path) -> Section:
    deep = [Image.fromarray(np.full((30, 40), 999 * n, np.uint16)) for n in range(5)]
    deep[0].save(here / "1.png")
    deep[1].save(here / "2.tif", save_all=True, append_images=deep[2:])
    np.save(here / "3.npy", np.zeros((30, 40, 5), np.uint8))
    return _folder(here)


@PICTURES.example("an array of NumPy that is no picture")
def _(here: Path) -> Section:
    pictures(here, "cats/1.jpg")
    np.save(here / "cats/1.npy", np.zeros(768))
    return _folder(here)


@PICTURES.example("a TIFF of numbers below 0 or above 65,535")
def _(here: Path) -> Section:
    pictures(here, "cats/1.jpg")
    Image.fromarray(np.full((30, 40), -1000, np.int32)).save(here / "cats/2.tif")
    return _folder(here)


@PICTURES.example("pictures without a suffix, or with another's")
def _(here: Path) -> Section:
    return _folder(pictures(here, "cats/1", "cats/2.dat", "cats/3.png"))


@PICTURES.example("HEIC without the package pillow-heif")
def _(here: Path) -> Section:
    pictures(here, "cats/1.jpg")
    (here / "cats/2.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    return _folder(here)


@PICTURES.example("a picture of another format, such as SVG")
def _(here: Path) -> Section:
    pictures(here, "cats/1.jpg")
    (here / "cats/2.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return _folder(here)


@PICTURES.example("a file that is no picture")
def _(here: Path) -> Section:
    pictures(here, "cats/1.jpg")
    (here / "cats/notes.txt").write_text("no picture")
    return _folder(here)


def _table(here: Path, images: list[Any], **columns: object) -> Section:
    pd.DataFrame({"image": images, **columns}).to_parquet(here / "t.parquet")
    return {"kind": "table", "path": str(here / "t.parquet")}


RED, BLUE = jpeg(), jpeg(colour="blue")


@PICTURES.example("a Parquet file with lists of labels")
def _(here: Path) -> Section:
    return _table(here, [RED, BLUE], label=[["cat", "dog"], ["dog"]])


@PICTURES.example("a Parquet file with a picture in each row")
def _(here: Path) -> Section:
    return _table(here, [RED, BLUE], label=["cat", "dog"])


@PICTURES.example("a Parquet file with a picture in each row, given as `manifest`")
def _(here: Path) -> Section:
    table = _table(here, [RED, BLUE], label=["cat", "dog"])
    return {**table, "kind": "manifest", "image_column": "image"}


@PICTURES.example("a Parquet file of paths, given as `table`")
def _(here: Path) -> Section:
    return _table(pictures(here, "1.jpg"), ["1.jpg"])


def _saved(**columns: list[Any]) -> datasets.Dataset:
    classes = datasets.ClassLabel(names=["zebra", "ant"])
    features = dict.fromkeys(columns, classes) | {"image": datasets.Image()}
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    return datasets.Dataset.from_dict(
        {"image": images, **columns}, features=datasets.Features(features)
    )


@PICTURES.example("a data set that Hugging Face `datasets` has saved")
def _(here: Path) -> Section:
    _saved(label=[0, 1]).save_to_disk(here / "set")
    return {"kind": "table", "path": str(here / "set")}


@PICTURES.example("splits that Hugging Face `datasets` has saved")
def _(here: Path) -> Section:
    splits = {"train": _saved(label=[0, 1]), "test": _saved(label=[0, 1])}
    datasets.DatasetDict(splits).save_to_disk(here / "sets")
    return {"kind": "table", "path": str(here / "sets")}


@PICTURES.example("a Parquet file of Hugging Face `datasets`")
def _(here: Path) -> Section:
    _saved(label=[0, 1]).to_parquet(here / "train-00000-of-00001.parquet")
    return {"kind": "table", "path": str(here)}


@PICTURES.example("a table with two columns of classes")
def _(here: Path) -> Section:
    _saved(fine_label=[0, 1], coarse_label=[0, 0]).to_parquet(here / "t.parquet")
    return {"kind": "table", "path": str(here)}


@PICTURES.example("tables that name other classes")
def _(here: Path) -> Section:
    _saved(label=[0, 1]).to_parquet(here / "a.parquet")
    _table(here, [RED], label=[0])
    return {"kind": "table", "path": str(here)}


@PICTURES.example("a table with a column `split`")
def _(here: Path) -> Section:
    return _table(here, [RED, BLUE], label=["cat", "dog"], split=["train", "validation"])


@PICTURES.example("a table with a vector of zeros and ones in place of labels")
def _(here: Path) -> Section:
    return _table(here, [RED, BLUE], label=[[0, 1, 0], [1, 1, 0]])


@PICTURES.example("a row without a picture")
def _(here: Path) -> Section:
    return _table(here, [RED, None], label=["cat", "dog"])


def _lance(here: Path) -> Section:
    table = pa.table({"image": [RED, BLUE], "label": ["cat", "dog"]})
    pytest.importorskip("lance").write_dataset(table, here / "t.lance")
    return {"kind": "table", "path": str(here / "t.lance")}


@PICTURES.example("a table of Lance")
def _(here: Path) -> Section:
    return _lance(here)


@PICTURES.example("a single file of Lance")
def _(here: Path) -> Section:
    table = pa.table({"image": [RED, BLUE], "label": ["cat", "dog"]})
    with pytest.importorskip("lance.file").LanceFileWriter(
        str(here / "t.lance"), table.schema
    ) as writer:
        writer.write_batch(table)
    return {"kind": "table", "path": str(here / "t.lance")}


@PICTURES.example("a table of Lance that lacks one of its files")
def _(here: Path) -> Section:
    source = _lance(here)
    for file in (here / "t.lance/data").iterdir():
        file.unlink()
    return source


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Section:
    with tarfile.open(path, mode) as writer:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            writer.addfile(member, io.BytesIO(data))
    return {"kind": "webdataset", "path": str(path)}


@PICTURES.example("a tar of a WebDataset, with `cls`")
def _(here: Path) -> Section:
    members = {"0001.jpg": RED, "0001.cls": b"0", "0002.JPG": BLUE, "0002.CLS": b"1"}
    return tar(here / "0.tar", members)


@PICTURES.example("tars of a WebDataset, with `json`")
def _(here: Path) -> Section:
    for number in (0, 1):
        about = json.dumps({"label": "cat", "caption": "a cat"}).encode()
        tar(here / f"train-{number:03}.tar", {"0001.jpg": RED, "0001.json": about})
    return {"kind": "webdataset", "path": f"{here}/train-{{000..001}}.tar"}


@PICTURES.example("a tar with lists of labels in `json`")
def _(here: Path) -> Section:
    return tar(here / "0.tar", {"1.jpg": RED, "1.json": b'{"labels": ["cat", "dog"]}'})


@PICTURES.example("a folder of tars, with `txt`")
def _(here: Path) -> Section:
    tar(here / "a.tar", {"0001.png": RED, "0001.txt": b"cat"})
    tar(here / "b.tar", {"0001.webp": BLUE, "0001.txt": b"dog"})
    return {"kind": "webdataset", "path": str(here)}


@PICTURES.example("a tar without labels")
def _(here: Path) -> Section:
    return tar(here / "0.tar", {"0001.jpg": RED, "0002.jpg": BLUE})


@PICTURES.example("tars that stay as they are, not copied into the workspace")
def _(here: Path) -> Section:
    return tar(here / "0.tar", {"0001.jpg": RED, "0001.cls": b"0"}) | {"copy": False}


@PICTURES.example("the shards of another audit")
def _(here: Path) -> Section:
    source = _folder(pictures(here / "pictures", "cats/1.jpg", "dogs/1.jpg"))
    shard_all(spec.Dataset(name="other", source=source), Lake(here / "lake"))
    return {"kind": "webdataset", "path": str(here / "lake/datasets/other/shards")}


@PICTURES.example("a sample without its label")
def _(here: Path) -> Section:
    return tar(here / "0.tar", {"0001.jpg": RED, "0002.jpg": BLUE, "0002.cls": b"0"})


@PICTURES.example("a sample of several pictures")
def _(here: Path) -> Section:
    members = {"1.jpg": RED, "1.cls": b"0", "2.left.jpg": RED, "2.right.jpg": BLUE, "2.cls": b"0"}
    return tar(here / "0.tar", members)


@PICTURES.example("a tar without samples")
def _(here: Path) -> Section:
    tar(here / "0.tar", {})
    tar(here / "1.tar", {"0001.jpg": RED})
    return {"kind": "webdataset", "path": str(here)}


@PICTURES.example("a compressed tar")
def _(here: Path) -> Section:
    return tar(here / "0.tar.gz", {"0001.jpg": RED}, "w:gz")


@PICTURES.example("a tar that is cut off")
def _(here: Path) -> Section:
    source = tar(here / "0.tar", {"0001.jpg": RED, "0002.jpg": BLUE})
    (here / "0.tar").write_bytes((here / "0.tar").read_bytes()[:1500])
    return source


@PICTURES.example("a program that gives a tar (`pipe:`)")
def _(here: Path) -> Section:
    return {"kind": "webdataset", "path": "pipe:cat 0.tar"}


def archive(path: Path, members: dict[str, bytes]) -> Section:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, data in members.items():
            writer.writestr(name, data)
    return {"kind": "zip", "path": str(path)}


@PICTURES.example("a zip file with a folder for each class")
def _(here: Path) -> Section:
    return archive(here / "a.zip", {"birds/wren/1.jpg": RED, "birds/robin/1.jpg": BLUE})


@PICTURES.example("a zip file with `train/` and `val/`")
def _(here: Path) -> Section:
    return archive(here / "a.zip", {"train/wren/1.jpg": RED, "val/wren/1.jpg": BLUE})


@PICTURES.example("a name in a zip file that leads out of it")
def _(here: Path) -> Section:
    return archive(here / "a.zip", {"wren/1.jpg": RED, "../robin/1.jpg": BLUE})


@PICTURES.example("an encrypted picture in a zip file")
def _(here: Path) -> Section:
    source = archive(here / "a.zip", {"wren/1.jpg": RED, "robin/1.jpg": BLUE})
    data = bytearray((here / "a.zip").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # a flag in the list of files
    (here / "a.zip").write_bytes(data)
    return source


@PICTURES.example("a zip file whose files lie over one another")
def _(here: Path) -> Section:
    source = archive(here / "a.zip", {"wren/1.jpg": RED, "robin/1.jpg": BLUE})
    data = (here / "a.zip").read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    first = data[start : data.index(b"PK\x01\x02", start + 4)]
    count = (20).to_bytes(2, "little")
    ending = bytearray(data[end:])
    ending[8:12] = count + count
    ending[12:16] = (20 * len(first)).to_bytes(4, "little")
    (here / "a.zip").write_bytes(data[:start] + 20 * first + ending)
    return source


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


@ANNOTATIONS.example("a COCO file for pictures without labels")
def _(here: Path) -> Section:
    return {**_coco(here, [ONE]), "labels": True}


@ANNOTATIONS.example("a COCO file with shares of the picture's sides in place of pixels")
def _(here: Path) -> Section:
    return _coco(here, [ONE], bbox=[0.1, 0.1, 0.5, 0.5])


@ANNOTATIONS.example("a COCO file with polygons")
def _(here: Path) -> Section:
    return _coco(here, [ONE], segmentation=[[5, 5, 15, 5, 15, 15]])


@ANNOTATIONS.example("a COCO file with run lengths")
def _(here: Path) -> Section:
    counts = [150, 10, 20, 10, 30 * 40 - 190]
    return _coco(here, [ONE], segmentation={"size": [30, 40], "counts": counts})


@ANNOTATIONS.example("a COCO file with boxes that a detector guessed, with their scores")
def _(here: Path) -> Section:
    return _coco(here, [ONE], score=0.4)


@ANNOTATIONS.example("the results of a detector, as COCO's tools write them")
def _(here: Path) -> Section:
    guess = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], "score": 0.4}
    (here / "coco.json").write_text(json.dumps([guess]))
    return {"kind": "coco", "path": str(here / "coco.json")}


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


@ANNOTATIONS.example("XML of another kind")
def _(here: Path) -> Section:
    source = _voc(here)
    (here / "xml/1.xml").write_text("<annotations><track><box xtl='5'/></track></annotations>")
    return source


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


@ANNOTATIONS.example("a mask with 255 beside other values, as smooth edges and borders have")
def _(here: Path) -> Section:
    source = _masks(here)
    mask = np.zeros((30, 40), np.uint8)
    mask[5:15, 5:15], mask[5:15, 5] = 255, 120
    Image.fromarray(mask).save(here / "masks/1.png")
    return source


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
