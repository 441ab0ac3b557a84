"""Tars, tables and zip files: the right picture with the right label, or a reason."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny import jpeg, shard_all

from ttame_core import spec
from ttame_core.audits.readiness import bytes_of
from ttame_core.audits.verify import verify
from ttame_core.data.index import load_classes, load_shards
from ttame_core.data.loader import image_bytes, read_shard
from ttame_core.data.plan import plan_shards, planned_rows
from ttame_core.data.shards import write_shard
from ttame_core.data.sources import open_source
from ttame_core.data.sources.base import Entry
from ttame_core.data.sources.containers import is_same, parts_of
from ttame_core.data.survey import find_source, survey
from ttame_core.errors import UserError
from ttame_core.lake import Lake

COLOURS = ("red", "blue", "green", "black")
RED, BLUE, GREEN, BLACK = (jpeg(colour=colour) for colour in COLOURS)


def entries(**source: Any) -> list[Entry]:
    return list(open_source(spec.Dataset(name="d", source=source).source).entries())


def taken(**source: Any) -> dict[str, str | None]:
    return {entry.path: entry.label for entry in entries(**source) if not entry.reason}


def reasons(**source: Any) -> dict[str, str]:
    return {entry.path: entry.reason for entry in entries(**source) if entry.reason}


def contents(tmp_path: Path, source: dict[str, Any]) -> dict[str, tuple[bytes, str | None]]:
    """The bytes and the class of each picture, as they come from the shards."""
    lake = Lake(tmp_path / "lake")
    shard_all(spec.Dataset(name="d", source=source, samples_per_shard=2), lake)
    found = {}
    for shard in load_shards(lake, "d"):
        for sample in read_shard(lake, "d", shard.shard):
            row = sample["__row__"]
            assert row["class"] is None or load_classes(lake, "d")[row["label"]] == row["class"]
            found[row["path"]] = image_bytes(sample), row["class"]
    return found


def tar(path: Path, *members: tuple[str, bytes | str], **options: Any) -> str:
    with tarfile.open(path, "w", **options) as writer:
        for name, data in members:
            content = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name)
            member.size = len(content)
            writer.addfile(member, io.BytesIO(content))
    return str(path)


# ---- WebDataset ------------------------------------------------------------------------------


def test_a_tar_gives_its_own_bytes_with_their_labels(tmp_path: Path) -> None:
    place = tar(
        tmp_path / "0.tar",
        ("./a/1.jpg", RED),
        ("./a/1.cls", "cat\n"),
        ("./a/2.PNG", BLUE),
        ("./a/2.CLS", " dog"),
        ("b/1.jpeg", GREEN),
        ("b/1.cls", "cat"),
    )
    assert contents(tmp_path, {"kind": "webdataset", "path": place}) == {
        "0.tar/a/1.jpg": (RED, "cat"),
        "0.tar/a/2.png": (BLUE, "dog"),
        "0.tar/b/1.jpeg": (GREEN, "cat"),
    }


@pytest.mark.parametrize(
    ("member", "data", "label"),
    [
        ("cls", "007", "007"),
        ("json", '{"label": 3}', "3"),
        ("json", '{"label": 3, "class": "cat"}', "cat"),
        ("json", '{"class_name": "cat", "class": 3}', "cat"),
        ("json", '{"label": 3.0}', "3"),
        ("txt", "a cat", "a cat"),
    ],
)
def test_where_labels_are(tmp_path: Path, member: str, data: str, label: str) -> None:
    place = tar(tmp_path / "0.tar", ("1.jpg", RED), (f"1.{member}", data))
    assert taken(kind="webdataset", path=place) == {"0.tar/1.jpg": label}


def _left_in_place(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A tar of four pictures in two classes, and a source that leaves them there."""
    members = [(f"{i}.{s}", d) for i, data in enumerate((RED, BLUE, GREEN, BLACK))
               for s, d in (("jpg", data), ("cls", "cat" if i % 2 else "dog"))]  # fmt: skip
    place = tar(tmp_path / "0.tar", *members)
    return Path(place), {"kind": "webdataset", "path": place, "copy": False}


def test_pictures_that_stay_in_their_tars_are_those_of_copies(tmp_path: Path) -> None:
    _, source = _left_in_place(tmp_path)
    stay = contents(tmp_path / "stay", source)
    assert stay == contents(tmp_path / "copied", {**source, "copy": True})
    assert len(stay) == 4
    lake = Lake(tmp_path / "stay/lake")
    assert bytes_of(lake, "d") == 0
    assert bytes_of(Lake(tmp_path / "copied/lake"), "d") == sum(map(len, (RED, BLUE, GREEN, BLACK)))
    for path in lake.glob("datasets/d/shards/*.tar"):
        assert not any(data in lake.read_bytes(path) for data in (RED, BLUE, GREEN, BLACK))
    assert verify(lake, pixels=True) == []


def test_a_tar_that_changed_under_its_index_is_found_and_named(tmp_path: Path) -> None:
    place, source = _left_in_place(tmp_path)
    contents(tmp_path, source)
    lake, data, before = Lake(tmp_path / "lake"), bytearray(place.read_bytes()), place.stat()
    data[data.index(BLUE) + 300] ^= 1
    place.write_bytes(data)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))  # and its size is the same
    with pytest.raises(
        UserError, match=r"0\.tar is not as it was .*1\.jpg: other bytes lie"
    ) as told:
        contents(tmp_path, source)
    (shard,) = re.findall(r"delete the shard (\S+) and run", str(told.value))
    (fault,) = verify(lake, pixels=True)
    assert (fault.path, fault.state) == (shard.removeprefix(f"{lake}/"), "stale")
    place.write_bytes(data[:100])
    with pytest.raises(UserError, match=r"0\.tar is not as it was"):
        [image_bytes(s) for n in load_shards(lake, "d") for s in read_shard(lake, "d", n.shard)]
    place.unlink()
    with pytest.raises(UserError, match="No such file"):
        [image_bytes(s) for n in load_shards(lake, "d") for s in read_shard(lake, "d", n.shard)]


def test_a_tar_that_moved_is_indexed_where_it_is_now(tmp_path: Path) -> None:
    place, source = _left_in_place(tmp_path)
    before = contents(tmp_path, source)
    (tmp_path / "new").mkdir()
    place.rename(tmp_path / "new/0.tar")
    assert contents(tmp_path, {**source, "path": str(tmp_path / "new/0.tar")}) == before


def test_of_pictures_that_stay_only_those_made_smaller_are_copied(tmp_path: Path) -> None:
    large = jpeg((200, 100))
    place = tar(tmp_path / "0.tar", ("1.jpg", RED), ("2.jpg", large))
    source = {"kind": "webdataset", "path": place, "copy": False}
    lake = Lake(tmp_path / "lake")
    shard_all(spec.Dataset(name="d", source=source, max_size=50), lake)
    samples = [s for n in load_shards(lake, "d") for s in read_shard(lake, "d", n.shard)]
    sizes = {s["__row__"]["path"]: Image.open(io.BytesIO(image_bytes(s))).size for s in samples}
    assert sizes == {"0.tar/1.jpg": (40, 30), "0.tar/2.jpg": (50, 25)}


def test_labels_under_other_names_and_none(tmp_path: Path) -> None:
    about = json.dumps({"caption": "a cat", "taxon": {"species": "Felis catus"}})
    place = tar(tmp_path / "0.tar", ("1.jpg", RED), ("1.json", about), ("1.cls", "3"))
    source = {"kind": "webdataset", "path": place}
    assert taken(**source, label="json.taxon.species") == {"0.tar/1.jpg": "Felis catus"}
    assert taken(**source, label=None) == {"0.tar/1.jpg": None}
    opened = open_source(spec.Source(**source, label="json.genus"))
    assert [entry.label for entry in opened.entries()] == [None]
    assert "no sample of" in opened.remarks[0]
    assert "`source.label`" in opened.remarks[0]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("2.jpg", BLUE)], "it has no label: there is no cls beside it"),
        ([("2.jpg", BLUE), ("2.cls", "")], "the label is missing"),
        ([("2.jpg", BLUE), ("2.cls", "-1")], "the label -1 is negative"),
        ([("2.jpg", BLUE), ("2.cls", "caf\xe9".encode("latin-1"))], "not UTF-8"),
        ([("2.jpg", BLUE), ("2.cls", "one\ntwo")], "several lines"),
        ([("2.jpg", BLUE), ("2.cls", "0"), ("2.cls", "1")], "its cls is there twice"),
        ([("2.jpg", BLUE), ("2.jpg", BLUE), ("2.cls", "1")], "its jpg is there twice"),
        ([("2.cls", "1")], "it has no image: it has cls"),
        ([("2.npy", b"x"), ("2.cls", "1")], "it has no image: it has cls, npy"),
        ([("2.jpg", BLUE), ("2.png", RED), ("2.cls", "1")], r"several images \(jpg, png\)"),
        ([("../2.jpg", BLUE), ("../2.cls", "1")], "leads out of the tar"),
        ([(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), BLUE)], "its name is not UTF-8"),
        ([("README", b"x")], "it has no image: it has a file without suffix"),
    ],
)
def test_samples_that_cannot_be_used(tmp_path: Path, members: list, reason: str) -> None:
    options = {"format": tarfile.GNU_FORMAT, "errors": "surrogateescape"}
    place = tar(tmp_path / "0.tar", ("1.jpg", RED), ("1.cls", "0"), *members, **options)
    rejected = reasons(kind="webdataset", path=place)
    (said,) = rejected.values()
    assert re.search(reason, said)
    assert taken(kind="webdataset", path=place) == {"0.tar/1.jpg": "0"}


def test_keys_with_several_dots(tmp_path: Path) -> None:
    place = tar(
        tmp_path / "0.tar",
        ("cat.01.jpg", RED),
        ("cat.01.cls", "0"),
        ("cat.02.jpg", BLUE),
        ("cat.02.cls", "1"),
        ("dog.jpg", GREEN),
        ("dog.mask.png", RED),
        ("dog.cls", "2"),
        ("fox.rgb.jpg", BLACK),
        ("fox.cls", "3"),
    )
    assert taken(kind="webdataset", path=place) == {
        "0.tar/cat.01.jpg": "0",
        "0.tar/cat.02.jpg": "1",
        "0.tar/dog.jpg": "2",
        "0.tar/fox.rgb.jpg": "3",
    }
    bare = tar(tmp_path / "1.tar", ("a.01.jpg", RED), ("a.02.jpg", BLUE))
    assert taken(kind="webdataset", path=bare) == {"1.tar/a.01.jpg": None, "1.tar/a.02.jpg": None}
    stereo = tar(tmp_path / "2.tar", ("1.left.jpg", RED), ("1.right.jpg", BLUE), ("1.cls", "0"))
    source = {"kind": "webdataset", "path": stereo}
    assert "name one with `image`" in reasons(**source)["2.tar/1"]
    assert taken(**source, image="right.jpg") == {"2.tar/1.right.jpg": "0"}


def test_keys_twice_links_and_hidden_files(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as writer:
        for name, kind in (("1.jpg", None), ("2.jpg", tarfile.SYMTYPE), ("._1.jpg", None)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind or member.type, "/etc/passwd"
            member.size = 0 if kind else len(RED)
            writer.addfile(member, io.BytesIO(RED))
        for name in ("3.txt", "1.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(RED)
            writer.addfile(member, io.BytesIO(RED))
    lake = Lake(tmp_path / "lake")
    source = {"kind": "webdataset", "path": str(path), "label": None}
    shard_all(spec.Dataset(name="d", source=source), lake)
    rejected = lake.read_table("datasets/d/rejected.parquet").to_pylist()
    assert {row["path"]: row["reason"] for row in rejected} == {
        "0.tar/1.jpg": "listed more than once",
        "0.tar/2": "its jpg is a link, or stored with gaps",
        "0.tar/3": "it has no image: it has txt",
    }


def test_tars_that_are_not_whole(tmp_path: Path) -> None:
    whole = Path(tar(tmp_path / "0.tar", ("1.jpg", RED), ("2.jpg", BLUE))).read_bytes()
    cut = tmp_path / "cut.tar"
    ends = whole.rstrip(b"\0")
    header = whole.index(b"2.jpg")
    damaged = whole[:header] + b"\xff" * 512 + whole[header + 512 :]
    for data in (whole[:700], whole[:header], whole[: header + 100], ends, damaged, whole + whole):
        cut.write_bytes(data)
        with pytest.raises(UserError, match=r"cut\.tar cannot be read .*get it again"):
            entries(kind="webdataset", path=str(cut))
    cut.write_bytes(b"")
    assert reasons(kind="webdataset", path=str(cut)) == {"cut.tar": "it holds no samples"}


def test_many_tars_and_their_splits(tmp_path: Path) -> None:
    for name, data in (("train-0", RED), ("train-1", BLUE), ("val-0", GREEN), ("more", BLACK)):
        tar(tmp_path / f"{name}.tar", ("1.jpg", data), ("1.cls", name[:3]))
    source = {"kind": "webdataset", "path": str(tmp_path)}
    splits = {entry.path: entry.split for entry in entries(**source) if not entry.reason}
    assert splits == {
        "train-0.tar/1.jpg": "train",
        "train-1.tar/1.jpg": "train",
        "val-0.tar/1.jpg": "val",
    }
    assert reasons(**source) == {"more.tar": "lies beside the splits"}
    for pattern in (f"{tmp_path}/train-{{0..1}}.tar", f"{tmp_path}/train-*.tar"):
        assert taken(kind="webdataset", path=pattern) == {
            "train-0.tar/1.jpg": "tra",
            "train-1.tar/1.jpg": "tra",
        }
    with pytest.raises(UserError, match=r"train-2\.tar does not exist"):
        entries(kind="webdataset", path=f"{tmp_path}/train-{{0..2}}.tar")
    with pytest.raises(UserError, match="more than 1,000,000 tars"):
        entries(kind="webdataset", path=f"{tmp_path}/{{0..99999999999}}.tar")
    with pytest.raises(UserError, match="no tar is found"):
        entries(kind="webdataset", path=f"{tmp_path}/test-*.tar")


def test_tars_are_known_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    place = tar(tmp_path / "tars/x-000.tar", ("1.jpg", RED), ("1.cls", "cat"))
    folder = str(tmp_path / "tars")
    for path in (place, folder, f"{folder}/x-{{000..000}}.tar", f"{folder}/x-*.tar"):
        source = find_source(path)
        assert (source.kind, source.own["path"]) == ("webdataset", path)
        assert taken(kind="webdataset", path=path) == {"x-000.tar/1.jpg": "cat"}
    url = "https://example.org/x-{000..146}.tar"
    assert find_source(url) == spec.Source(kind="webdataset", path=url)


def test_tars_with_labels_after_tars_without(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", ("1.jpg", RED))
    tar(tmp_path / "1.tar", ("1.jpg", RED), ("1.cls", "0"))
    with pytest.raises(UserError, match=r"1\.tar has labels \(cls\), and the tars before it"):
        entries(kind="webdataset", path=str(tmp_path))


def test_a_file_that_changed_after_it_was_listed(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    tar(path, ("1.jpg", RED), ("1.cls", "cat"))
    dataset = spec.Dataset(name="d", source={"kind": "webdataset", "path": str(path)})
    lake = Lake(tmp_path / "lake")
    plan = plan_shards(dataset, lake)
    assert bytes_of(lake, "d") == len(RED)  # what the shards will take, not the tar for each
    (row,) = planned_rows(lake, "d", plan.shards[0])
    container = parts_of(row["location"])[0]
    assert is_same(container, row["stamp"])
    tar(path, ("0.jpg", BLUE), ("0.cls", "dog"))
    os.utime(path, (1, 1))
    assert not is_same(container, row["stamp"])
    with pytest.raises(UserError, match="was changed since its pictures were listed"):
        write_shard(dataset, lake, plan, plan.shards[0])


# ---- tables ----------------------------------------------------------------------------------


def saved(count: int = 4, **columns: list[Any]) -> datasets.Dataset:
    classes = datasets.ClassLabel(names=["zebra", "ant", "cow"])
    features = {"image": datasets.Image()} | dict.fromkeys(columns, classes)
    images = [{"bytes": jpeg(colour=COLOURS[n % 4]), "path": None} for n in range(count)]
    return datasets.Dataset.from_dict(
        {"image": images, **columns}, features=datasets.Features(features)
    )


@pytest.mark.parametrize("kind", ["arrow", "parquet", "without metadata of the schema"])
def test_what_datasets_saves(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "saved"
    if kind == "arrow":
        saved(label=[0, 1, 0, -1]).save_to_disk(place, num_shards=2)
    elif kind == "parquet":
        place.mkdir()
        saved(label=[0, 1, 0, -1]).to_parquet(place / "0000.parquet", batch_size=2)
    else:
        saved(label=[0, 1, 0, -1]).save_to_disk(place, num_shards=2)
        for path in place.glob("*.arrow"):
            table = pa.ipc.open_stream(path.read_bytes()).read_all().replace_schema_metadata({})
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    (place / "cache-1234.arrow").write_bytes(b"of something else")
    source = {"kind": "table", "path": str(place)}
    found = sorted(contents(tmp_path, source).items())
    assert [value for _, value in found] == [
        (RED, "zebra"),
        (BLUE, "ant"),
        (GREEN, "zebra"),
        (BLACK, None),
    ]
    lake = Lake(tmp_path / "lake")
    assert load_classes(lake, "d") == ["zebra", "ant", "cow"]
    total = sum(map(len, (RED, BLUE, GREEN, BLACK)))
    assert total / 2 < bytes_of(lake, "d") < total * 4  # small files have a large frame
    assert find_source(str(place)).kind == "table"


def test_splits_that_datasets_saves(tmp_path: Path) -> None:
    splits = {name: saved(label=[0, 1, 2, 0]) for name in ("train", "validation", "extra")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "sets")
    found = entries(kind="table", path=str(tmp_path / "sets"))
    assert [entry.split for entry in found if not entry.reason] == ["train"] * 4 + ["val"] * 4
    assert [e.path for e in found if e.reason] == ["extra/data-00000-of-00001.arrow"]


def test_a_data_set_of_selected_rows(tmp_path: Path) -> None:
    saved(label=[0, 1, 2, 0]).select([3, 1]).save_to_disk(tmp_path / "some")
    found = contents(tmp_path, {"kind": "table", "path": str(tmp_path / "some")})
    assert sorted(found.values()) == sorted([(BLACK, "zebra"), (BLUE, "ant")])


def _parquet(path: Path, **columns: list[Any]) -> dict[str, Any]:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return {"kind": "table", "path": str(path)}


def test_plain_parquet(tmp_path: Path) -> None:
    images = [jpeg(colour=f"#{n:02x}0000") for n in range(50)]
    labels = [f"class {n % 3}" for n in range(50)]
    source = _parquet(tmp_path / "t.parquet", id=[*range(50)], picture=images, label=labels)
    found = contents(tmp_path, source)
    expected = zip(images, labels, strict=True)
    assert found == {f"t.parquet/{n:06d}": pair for n, pair in enumerate(expected)}
    named = [{"bytes": RED, "path": f"folder/{n}.jpg"} for n in range(2)]
    source = _parquet(tmp_path / "n.parquet", image=named, label=[3, 0])
    assert taken(**source) == {"n.parquet/000000/0.jpg": "3", "n.parquet/000001/1.jpg": "0"}


@pytest.mark.parametrize("label", [["a", "b"], None])
def test_plain_arrow(tmp_path: Path, label: list[str] | None) -> None:
    table = pa.table({"image": [RED, BLUE]} | ({"label": label} if label else {}))
    with pa.ipc.new_file(tmp_path / "t.arrow", table.schema) as writer:
        writer.write_table(table)
    source = {"kind": "table", "path": str(tmp_path / "t.arrow")}
    first, second = label or (None, None)
    expected = {"t.arrow/000000": (RED, first), "t.arrow/000001": (BLUE, second)}
    assert contents(tmp_path, source) == expected


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"picture": ["a.jpg"], "label": [0]}, "no column of images in bytes; it has picture"),
        ({"left": [RED], "right": [RED]}, r"several columns of images \(left, right\)"),
        ({"image": [[RED]], "label": [0]}, "no column of images in bytes"),
    ],
)
def test_tables_without_a_column(tmp_path: Path, columns: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        entries(**_parquet(tmp_path / "t.parquet", **columns))


def test_splits_of_a_column(tmp_path: Path) -> None:
    columns = {"image": [RED, BLUE, GREEN, BLACK], "split": ["train", "valid", "test", None]}
    source = _parquet(tmp_path / "t.parquet", **columns, label=["a", "b", "a", "b"])
    assert [entry.split for entry in entries(**source)] == ["train", "val", "test", None]
    opened = open_source(spec.Dataset(name="d", source=source).source)
    assert list(opened.entries())
    assert "the column `split`" in opened.remarks[0]
    without = entries(**source, split_column=None)
    assert {entry.split for entry in without} == {None}
    source = _parquet(tmp_path / "t.parquet", image=[RED], split=["holdout"])
    assert "unknown split 'holdout'" in reasons(**source)["t.parquet/000000"]


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    images = [RED, None, b"no picture", BLUE, RED]
    source = _parquet(tmp_path / "t.parquet", image=images, label=["a", "a", "a", None, "b"])
    lake = Lake(tmp_path / "lake")
    shard_all(spec.Dataset(name="d", source=source), lake)
    rejected = lake.read_table("datasets/d/rejected.parquet").to_pylist()
    said = {row["path"]: row["reason"] for row in rejected}
    assert said["t.parquet/000001"] == "its row holds no image"
    assert "not an image of a known format" in said["t.parquet/000002"]
    assert said["t.parquet/000003"] == "the label is missing"
    assert len(lake.read_table("datasets/d/index.parquet")) == 2


def test_labels_that_the_file_does_not_name(tmp_path: Path) -> None:
    told = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}
    table = pa.table({"image": [RED] * 4, "label": [1, 2, None, -2]})
    metadata = {"huggingface": json.dumps(told)}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "t.parquet")
    source = {"kind": "table", "path": str(tmp_path / "t.parquet")}
    assert [*taken(**source).values()] == ["b", None]
    assert all("is none of the file's 2 classes" in words for words in reasons(**source).values())
    told["info"]["features"]["label"]["names"] = ["a", "a"]
    metadata = {"huggingface": json.dumps(told)}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="not texts that all differ"):
        entries(**source)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_damaged_tables(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pd.DataFrame({"image": [RED, BLUE], "label": [0, 1]}).to_parquet(path)
    else:
        saved(label=[0, 1, 2, 0]).save_to_disk(tmp_path / "saved")
        path.write_bytes((tmp_path / "saved/data-00000-of-00001.arrow").read_bytes())
    whole = path.read_bytes()
    for data in (b"", b"nothing of the kind", whole[:200], whole[: len(whole) // 2], whole[:-9]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read as Parquet or Arrow"):
            contents(tmp_path, {"kind": "table", "path": str(path)})


# ---- zip files -------------------------------------------------------------------------------


def archive(path: Path, *members: tuple[str, bytes | str], **options: Any) -> str:
    with zipfile.ZipFile(path, "w", **options) as writer:
        for name, data in members:
            writer.writestr(name, data)
    return str(path)


def test_a_zip_file_gives_its_own_bytes(tmp_path: Path) -> None:
    place = archive(
        tmp_path / "a.zip",
        ("birds/README.txt", "birds"),
        ("birds/robin/1.jpg", RED),
        ("birds/robin/deep/2.JPG", BLUE),
        ("birds/wren\\1", GREEN),
        ("__MACOSX/birds/robin/._1.jpg", RED),
        ("birds/.hidden/1.jpg", RED),
        compression=zipfile.ZIP_DEFLATED,
    )
    assert contents(tmp_path, {"kind": "zip", "path": place}) == {
        "robin/1.jpg": (RED, "robin"),
        "robin/deep/2.JPG": (BLUE, "robin"),
        "wren/1": (GREEN, "wren"),
    }
    rejected = Lake(tmp_path / "lake").read_table("datasets/d/rejected.parquet").to_pylist()
    assert [(row["path"], row["kind"]) for row in rejected] == [("README.txt", "file")]
    assert bytes_of(Lake(tmp_path / "lake"), "d") == sum(map(len, (RED, BLUE, GREEN)))
    assert find_source(place) == spec.Source(kind="zip", path=place)
    found = survey(spec.Dataset(name="d", source={"kind": "zip", "path": place}))
    assert (found.total, found.looked_at) == (3, 3)


def test_classes_of_zip_files(tmp_path: Path) -> None:
    flat = archive(tmp_path / "flat.zip", ("1.jpg", RED), ("2.jpg", BLUE))
    assert taken(kind="zip", path=flat) == {"1.jpg": None, "2.jpg": None}
    one = archive(tmp_path / "one.zip", ("robin/1.jpg", RED), ("robin/2.jpg", BLUE))
    assert taken(kind="zip", path=one) == {"robin/1.jpg": "robin", "robin/2.jpg": "robin"}
    loose = archive(tmp_path / "loose.zip", ("robin/1.jpg", RED), ("2.jpg", BLUE))
    assert reasons(kind="zip", path=loose) == {"2.jpg": "lies in no class folder"}
    split = archive(
        tmp_path / "split.zip",
        ("x/train/robin/1.jpg", RED),
        ("x/valid/robin/1.jpg", BLUE),
        ("x/extra/robin/1.jpg", BLUE),
    )
    found = entries(kind="zip", path=split)
    assert {e.path: (e.split, e.reason) for e in found} == {
        "train/robin/1.jpg": ("train", ""),
        "val/robin/1.jpg": ("val", ""),
        "extra/robin/1.jpg": (None, "lies beside the splits"),
    }


def test_zip_files_that_are_not_whole(tmp_path: Path) -> None:
    path = Path(archive(tmp_path / "a.zip", ("robin/1.jpg", RED), ("robin/2.jpg", BLUE)))
    whole = path.read_bytes()
    for data in (b"", b"no zip", whole[:300], whole[:-30]):
        path.write_bytes(data)
        with pytest.raises(UserError, match="is not a whole zip file"):
            entries(kind="zip", path=str(path))
    path.write_bytes(whole.replace(RED[100:], bytes(len(RED) - 100)))
    lake = Lake(tmp_path / "lake")
    shard_all(spec.Dataset(name="d", source={"kind": "zip", "path": str(path)}), lake)
    (row,) = lake.read_table("datasets/d/rejected.parquet").to_pylist()
    assert row["path"] == "robin/1.jpg"
    assert "Bad CRC-32" in row["reason"]
    empty = archive(tmp_path / "empty.zip")
    with pytest.raises(UserError, match="holds no files"):
        entries(kind="zip", path=empty)


def test_a_bomb_in_a_zip_file_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttame_core.data.sources import zip as source

    bomb = bytes(2**24)
    place = archive(
        tmp_path / "a.zip",
        ("robin/1.jpg", RED),
        ("robin/2.jpg", bomb),
        compression=zipfile.ZIP_DEFLATED,
    )
    monkeypatch.setattr(source, "LARGEST", 2**20)
    assert reasons(kind="zip", path=place) == {"robin/2.jpg": "it is larger than 1 MiB"}


# ---- folders ---------------------------------------------------------------------------------


def _pictures(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(RED)


def test_folders_of_splits(tmp_path: Path) -> None:
    _pictures(tmp_path, "Train/cats/1.jpg", "val/cats/1.jpg", "testing/cats/1.jpg", "more/1.jpg")
    source = open_source(spec.Source(kind="folder", path=str(tmp_path)))
    found = {entry.path: (entry.split, entry.label, entry.reason) for entry in source.entries()}
    assert found == {
        "train/cats/1.jpg": ("train", "cats", ""),
        "val/cats/1.jpg": ("val", "cats", ""),
        "test/cats/1.jpg": ("test", "cats", ""),
        "more": (None, None, "lies beside the splits"),
    }
    (remark,) = source.remarks
    assert "Train/ is train, val/ is val, testing/ is test" in remark


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["train/1.jpg", "val/1.jpg"], {None}),  # splits without labels
        (["train/1.jpg", "test/1.jpg", "bus/1.jpg"], {"train", "test", "bus"}),
        (["train/1.jpg", "bus/1.jpg"], {"train", "bus"}),
        (["train/a/1.jpg", "val/notes.txt"], {"train"}),
        (["test/a/1.jpg", "val/a/1.jpg"], {"test", "val"}),
    ],
)
def test_folders_that_may_be_classes(tmp_path: Path, names: list, labels: set) -> None:
    _pictures(tmp_path, *(name for name in names if name.endswith("jpg")))
    (tmp_path / "val").mkdir(exist_ok=True)
    assert {*taken(kind="folder", path=str(tmp_path)).values()} == labels


def test_pictures_by_content(tmp_path: Path) -> None:
    _pictures(tmp_path, "cats/0001", "cats/2.jpg_original", "cats/3.bin")
    Image.new("RGB", (9, 9)).save(tmp_path / "cats/4.avif")
    (tmp_path / "texts").mkdir()
    for name, text in (("README", "no picture"), ("cars", "BMW has wheels"), ("q", "P5 is it")):
        (tmp_path / "texts" / name).write_text(text)
    os.mkfifo(tmp_path / "texts/pipe")
    source = {"kind": "folder", "path": str(tmp_path)}
    assert set(taken(**source)) == {
        "cats/0001",
        "cats/2.jpg_original",
        "cats/3.bin",
        "cats/4.avif",
    }
    rejected = reasons(**source)
    assert set(rejected) == {
        "texts",
        "texts/README",
        "texts/cars",
        "texts/q",
        "texts/pipe",
    }
    assert rejected["texts"] == "folder without images"
    assert contents(tmp_path, {**source, "path": str(tmp_path / "cats")})["0001"] == (RED, None)
