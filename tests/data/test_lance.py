"""Tables of Lance: the right picture with the right label, as from other tables."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_containers import BLACK, BLUE, GREEN, RED, contents, entries, reasons, taken
from tiny import jpeg

from ttame_core import spec
from ttame_core.audits.readiness import bytes_of
from ttame_core.data.plan import plan_shards
from ttame_core.data.sources.lance import newest_versions
from ttame_core.data.survey import find_source
from ttame_core.errors import UserError
from ttame_core.lake import Lake

lance = pytest.importorskip("lance")

IMAGES = [RED, BLUE, GREEN, BLACK]
NAMED = [{"bytes": data, "path": f"x/{number}.jpg"} for number, data in enumerate(IMAGES)]
LABELS = ["cat", "dog", "cat", "owl"]


def written(place: Path, how: str = "create", **columns: Any) -> dict[str, Any]:
    lance.write_dataset(pa.table(columns), place, mode=how, max_rows_per_file=3)
    return {"kind": "table", "path": str(place)}


@pytest.mark.parametrize("form", ["bytes", "struct", "blob", "encoded image", "file", "2.0"])
def test_a_table_gives_its_own_bytes_with_their_labels(tmp_path: Path, form: str) -> None:
    place, names = tmp_path / "t.lance", [f"t.lance/{row:06d}" for row in range(4)]
    image: Any = pa.array(IMAGES)
    if form == "struct":
        image, names = pa.array(NAMED), [f"{name}/{row}.jpg" for row, name in enumerate(names)]
    elif form == "encoded image":
        from lance.arrow import EncodedImageArray, EncodedImageType

        image = EncodedImageArray.from_storage(EncodedImageType(), image)
    kind = {"lance-encoding:blob": "true"} if form == "blob" else None
    image_field = pa.field("image", pa.large_binary() if kind else image.type, metadata=kind)
    schema = pa.schema([image_field, pa.field("label", pa.string())])
    table = pa.table([image.cast(schema[0].type), LABELS], schema=schema)
    if form == "file":
        from lance.file import LanceFileWriter

        with LanceFileWriter(str(place), schema) as writer:
            writer.write_batch(table)
    else:
        version = {"data_storage_version": form} if form == "2.0" else {}
        lance.write_dataset(table, place, max_rows_per_file=3, **version)
    source = {"kind": "table", "path": str(place)}
    pairs = zip(IMAGES, LABELS, strict=True)
    assert contents(tmp_path, source) == dict(zip(names, pairs, strict=True))
    total = sum(map(len, IMAGES))
    assert total / 2 < bytes_of(Lake(tmp_path / "lake"), "d") < total * 4
    assert find_source(str(place)).kind == "table"


def test_columns_are_found_as_in_other_tables(tmp_path: Path) -> None:
    source = written(tmp_path / "a.lance", picture=IMAGES, cls=[["a"], ["b", "a"], [], None])
    assert [*taken(**source).values()] == ["a", "b\x1fa", None]
    assert [*reasons(**source).values()] == ["the label is missing"]
    source = written(tmp_path / "plain.lance", picture=IMAGES)
    assert [*taken(**source).values()] == [None] * 4
    told = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["b", "a"]}}}}
    table = pa.table({"image": IMAGES, "label": [0, 1, -1, 7]})
    metadata = {"huggingface": json.dumps(told)}
    lance.write_dataset(table.replace_schema_metadata(metadata), tmp_path / "h.lance")
    source = {"kind": "table", "path": str(tmp_path / "h.lance")}
    assert [*taken(**source).values()] == ["b", "a", None]
    assert "is none of the file's 2 classes" in next(iter(reasons(**source).values()))
    for columns, words in (
        ({"image": ["a.jpg"]}, "no column of images in bytes"),
        ({"left": [RED], "right": [RED]}, r"several columns of images \(left, right\)"),
    ):
        with pytest.raises(UserError, match=words):
            entries(**written(tmp_path / "wrong.lance", "overwrite", **columns))


def test_rows_without_a_picture_are_left_out(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    source = written(tmp_path / "t.lance", image=[RED, None, b"no picture"], label=["a", "b", "a"])
    assert [*contents(tmp_path, source)] == ["t.lance/000000"]
    rejected = lake.read_table("datasets/d/rejected.parquet").to_pylist()
    assert {row["path"] for row in rejected} == {"t.lance/000001", "t.lance/000002"}


def test_the_newest_version_is_read_and_its_rows_stay(tmp_path: Path) -> None:
    place = tmp_path / "t.lance"
    source = written(place, image=IMAGES, label=LABELS)
    dataset = spec.Dataset(name="d", source=source)
    first = plan_shards(dataset, Lake(tmp_path / "one"))
    assert plan_shards(dataset, Lake(tmp_path / "two")).shards == first.shards
    written(place, "append", image=[jpeg(colour="white")], label=["new"])
    lance.dataset(place).delete("label = 'dog'")
    assert [*taken(**source).values()] == ["cat", "cat", "owl", "new"]
    assert len(contents(tmp_path, source)) == 4
    shutil.rmtree(place / "_versions")
    with pytest.raises(UserError, match=r"t\.lance is a table of Lance without a version"):
        entries(**source)


def test_tables_in_a_folder_are_splits_by_their_names(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        written(tmp_path / f"{name}.lance", image=IMAGES, label=LABELS)
    found = entries(kind="table", path=str(tmp_path))
    assert [entry.split for entry in found] == ["train"] * 4 + ["val"] * 4
    assert find_source(str(tmp_path)).kind == "table"


def test_which_version_is_the_newest() -> None:
    low = [f"{2**64 - 1 - number}.manifest" for number in (9, 10)]
    files = [f"a/_versions/{name}" for name in (*low, "8.manifest", "hint.json")]
    files += ["_versions/9.manifest", "_versions/10.manifest", "tree/x/_versions/1.manifest"]
    assert newest_versions("d", [*files[:4], "b"]) == ({"a": f"a/_versions/{low[1]}"}, ["b"])
    assert newest_versions("d", files) == ({"": "_versions/10.manifest"}, [])


@pytest.mark.parametrize("part", ["_versions", "data"])
@pytest.mark.parametrize("damage", ["cut", "other", "empty", "flipped", "gone"])
def test_a_damaged_table_is_one_sentence(tmp_path: Path, part: str, damage: str) -> None:
    source = written(tmp_path / "t.lance", image=IMAGES, label=LABELS)
    files = [f for f in (tmp_path / "t.lance" / part).iterdir() if f.suffix != ".json"]
    (file, *_) = sorted(files)
    data = file.read_bytes()
    flipped = bytes(byte ^ 0x5A if place % 97 == 0 else byte for place, byte in enumerate(data))
    changed = {"cut": data[: len(data) // 2], "other": b"none", "empty": b"", "flipped": flipped}
    if damage == "gone":
        os.remove(file)
    else:
        file.write_bytes(changed[damage])
    with pytest.raises(
        UserError, match=r"t\.lance (cannot be read|is a table of Lance w)"
    ) as caught:
        contents(tmp_path, source)
    assert ".rs:" not in str(caught.value)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path / "t.lance", image=IMAGES, label=LABELS)
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(UserError, match=r"pip install 'ttame\[lance\]'"):
        entries(**source)
