"""Folders, lists and manifests give the right entries, and clear errors."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tiny import jpeg, shard_all

from ttame_core import spec
from ttame_core.data.sources import open_source
from ttame_core.errors import UserError
from ttame_core.lake import Lake


def _entries(**source: object) -> list:
    return list(open_source(spec.Dataset(name="d", source=source).source).entries())


def test_folder(folder: Path) -> None:
    (folder / "cats/.hidden.jpg").write_bytes(b"")
    (folder / "cats/notes.txt").write_text("no image")
    (folder / "birds").mkdir()
    (folder / "loose.jpg").write_bytes(b"")
    found = {e.path: e for e in _entries(kind="folder", path=str(folder))}
    taken = {path: e.label for path, e in found.items() if not e.reason}
    assert taken == {
        "cats/a b.jpg": "cats",
        "cats/ñandú.JPG": "cats",
        "cats/same.png": "cats",
        "dogs/same.jpg": "dogs",
        "dogs/x.y.jpeg": "dogs",
    }
    assert {path: e.kind for path, e in found.items() if e.reason} == {
        "birds": "folder",
        "cats/notes.txt": "file",
        "loose.jpg": "image",
    }
    assert found["birds"].label is None  # a folder without images is no class


def test_a_folder_for_each_split(folder: Path, tmp_path: Path) -> None:
    found = _entries(kind="folder", path={"train": str(folder), "test": str(folder)})
    assert {e.split for e in found} == {"train", "test"}
    assert len({e.path for e in found}) == 10


def test_list_with_spaces_in_paths(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("cats/a b.jpg\t black swan\n")
    (named,) = _entries(kind="list", path=str(tmp_path / "list.txt"), root=str(folder))
    assert (named.path, named.label) == ("cats/a b.jpg", "black swan")
    (tmp_path / "list.txt").write_text("cats/a b.jpg 3\n\ndogs/same.jpg 0\nnone.jpg 1\n")
    first, second, missing = _entries(
        kind="list", path=str(tmp_path / "list.txt"), root=str(folder)
    )
    assert (first.path, first.label) == ("cats/a b.jpg", "3")
    assert (second.path, second.label) == ("dogs/same.jpg", "0")
    assert "no such file" in missing.reason


@pytest.mark.parametrize(
    ("line", "words"), [("only-a-path", "line 2"), ("a.jpg -1", "negative")], ids=["bare", "label"]
)
def test_wrong_line_of_a_list(folder: Path, tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "list.txt").write_text(f"cats/a b.jpg 3\n{line}\n")
    with pytest.raises(UserError, match=words):
        _entries(kind="list", path=str(tmp_path / "list.txt"), root=str(folder))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_manifest(folder: Path, kind: str) -> None:
    table = pa.table(
        {
            "path": ["cats/a b.jpg", str(folder / "dogs/same.jpg")],
            "label": ["cat", "dog"],
            "split": ["train", "test"],
        }
    )
    path = folder / f"manifest.{kind}"
    if kind == "csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    found = _entries(kind="manifest", path=str(path))
    assert [(e.path, e.label, e.split) for e in found] == [
        ("cats/a b.jpg", "cat", "train"),
        ("dogs/same.jpg", "dog", "test"),
    ]


def test_manifest_without_the_column(folder: Path) -> None:
    (folder / "m.csv").write_text("file,label\na.jpg,1\n")
    with pytest.raises(UserError, match="no column 'path'; it has file, label"):
        _entries(kind="manifest", path=str(folder / "m.csv"))


def test_manifest_with_a_wrong_split(folder: Path) -> None:
    (folder / "m.csv").write_text("path,label,split\ncats/a b.jpg,1,holdout\n")
    with pytest.raises(UserError, match="row 1: unknown split 'holdout'"):
        _entries(kind="manifest", path=str(folder / "m.csv"))


def test_usual_names_of_splits(folder: Path) -> None:
    names = {"Train": "train", "valid": "val", "dev": "val", "testing": "test", " ": None}
    rows = "".join(f"{number}.jpg,1,{name}\n" for number, name in enumerate(names))
    (folder / "m.csv").write_text(f"path,label,split\n{rows}")
    found = _entries(kind="manifest", path=str(folder / "m.csv"))
    assert [entry.split for entry in found] == [*names.values()]


@pytest.mark.parametrize("kind", ["folder", "list", "manifest"])
def test_a_source_that_is_not_there(kind: str, tmp_path: Path) -> None:
    root = {"root": str(tmp_path)} if kind == "list" else {}
    with pytest.raises(UserError, match="nowhere"):
        _entries(kind=kind, path=str(tmp_path / "nowhere"), **root)


def _labels(folder: Path, text: str | bytes, **settings: object) -> list[str | None]:
    path = folder / "m.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [e.label for e in _entries(kind="manifest", path=str(path), **settings)]


def test_a_manifest_is_read_as_text(folder: Path) -> None:
    lines = "cats/a b.jpg,001\ndogs/same.jpg, 2.0 \n"
    assert _labels(folder, f"path,label\n{lines}") == ["001", "2.0"]
    (folder / "0001").write_bytes((folder / "dogs/same.jpg").read_bytes())
    (entry,) = _entries_of_csv(folder, "path,label,split\n0001,cat,\n")
    assert (entry.path, entry.reason, entry.split) == ("0001", "", None)


def _entries_of_csv(folder: Path, text: str) -> list:
    (folder / "m.csv").write_text(text)
    return _entries(kind="manifest", path=str(folder / "m.csv"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (b"a.jpg,cat\nb.jpg,\n", "row 2: the label is missing"),
        (b"a.jpg,cat\n,dog\n", "row 2: the image is missing"),
        ("a.jpg,dog\nb.jpg,café\n".encode("latin-1"), "row 2: the label .* is not UTF-8"),
        (b"a.jpg,cat,more\n", "row 1: cannot be read"),
        (b"a.jpg,cat\nb.jpg\n", "row 2: cannot be read"),
        (b"a.jpg,-1.0\n", "row 1: the label -1.0 is negative"),
        (b"a.jpg,1.0\nb.jpg,nan\n", "row 2: the label is missing: nan is what tables write"),
    ],
    ids=["no label", "no image", "latin-1", "too much", "too little", "negative", "nan"],
)
def test_wrong_row_of_a_manifest(folder: Path, rows: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        _labels(folder, b"path,label\n" + rows)


def test_wrong_columns_of_a_manifest(folder: Path) -> None:
    with pytest.raises(UserError, match="two columns are called 'label'"):
        _labels(folder, b"path,label,label\na.jpg,cat,dog\n")
    assert _labels(folder, b"path,label,,\ncats/a b.jpg,cat,,\n") == ["cat"]
    with pytest.raises(UserError, match=r"the name of a column .* is not UTF-8 text"):
        _labels(folder, "path,label\na.jpg,cat\n".encode("utf-16"))


@pytest.mark.parametrize("between", [";", "\t"])
def test_other_signs_between_the_columns_of_a_manifest(folder: Path, between: str) -> None:
    rows = ["path,label,split", "cats/a b.jpg,black swan,train", "dogs/same.jpg,dog,test"]
    found = _entries_of_csv(folder, "\ufeff" + "\n".join(rows).replace(",", between))
    assert [(e.path, e.label, e.split) for e in found] == [
        ("cats/a b.jpg", "black swan", "train"),
        ("dogs/same.jpg", "dog", "test"),
    ]


def test_a_picture_has_one_name_however_its_path_is_written(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "m.csv").write_text(
        "path,label\na/1.jpg,cat\n./a/1.jpg,dog\na//../a/1.jpg,dog\n2.jpg,dog\n"
    )
    lake = Lake(tmp_path / "lake")
    source = {"kind": "manifest", "path": str(tmp_path / "m.csv")}
    shard_all(spec.Dataset(name="d", source=source), lake)
    rows = lake.read_table("datasets/d/index.parquet").to_pylist()
    assert {row["path"]: row["class"] for row in rows} == {"a/1.jpg": "cat", "2.jpg": "dog"}
    reasons = lake.read_table("datasets/d/rejected.parquet")["reason"].to_pylist()
    assert reasons == ["listed more than once"] * 2


def test_one_class_however_its_name_is_composed(tmp_path: Path) -> None:
    """As files from a Mac and from elsewhere are called in two forms of Unicode."""
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    for split, name in zip(("train", "test"), names, strict=True):
        place = tmp_path / "pictures" / split / name
        place.mkdir(parents=True)
        (place / "1.jpg").write_bytes(jpeg())
    lake = Lake(tmp_path / "lake")
    source = {"kind": "folder", "path": str(tmp_path / "pictures")}
    for classes in (None, [names[1]]):
        shard_all(spec.Dataset(name="d", source=source, classes=classes), lake)
        rows = lake.read_table("datasets/d/index.parquet").to_pylist()
        assert [(row["label"], row["class"]) for row in rows] == [(0, names[0])] * 2


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([2.0, 10.0], ["2", "10"]),
        ([104, 3], ["104", "3"]),
        (pd.Categorical(["cat", "dog"]), ["cat", "dog"]),
        ([b"cat", b"dog"], ["cat", "dog"]),
        ([True, False], "row 1: the label is True, a bool"),
        ([[1], [2, 3, 2]], ["1", "2\x1f3"]),
        ([["a"], []], ["a", None]),
        ([["a"], ["b", None]], "row 2: the label is missing"),
        ([{"a": 1}, {"a": 2}], r"row 1: the label is \{'a': 1\}, a dict"),
        ([1.0, 2.5], "row 2: the label is 2.5, a float"),
        ([1.0, None], "row 2: the label is missing"),
    ],
    ids=[
        *("floats", "integers", "categories", "bytes", "booleans", "lists", "empty list", "hole"),
        *("mappings", "fractions", "missing"),
    ],
)
def test_labels_of_parquet(folder: Path, labels: object, found: list[str] | str) -> None:
    path = folder / "m.parquet"
    images = ["cats/a b.jpg", "dogs/same.jpg"]
    pd.DataFrame({"path": images, "label": labels}).to_parquet(path)
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            _entries(kind="manifest", path=str(path))
    else:
        assert [e.label for e in _entries(kind="manifest", path=str(path))] == found


@pytest.mark.parametrize(
    ("separator", "found"),
    [
        ({}, ["cat\x1fdog", "a|b"]),
        ({"label_separator": "|"}, ["cat; dog;cat", "a\x1fb"]),
        ({"label_separator": None}, ["cat; dog;cat", "a|b"]),
    ],
    ids=["default", "other", "none"],
)
def test_several_labels_of_a_manifest(
    folder: Path, separator: dict[str, str | None], found: list[str]
) -> None:
    rows = "path,label\ncats/a b.jpg,cat; dog;cat\ndogs/same.jpg,a|b\n"
    assert _labels(folder, rows, **separator) == found
    with pytest.raises(UserError, match="row 1: the label is missing"):
        _labels(folder, "path,label\ncats/a b.jpg, ; \n")


def test_images_without_labels(folder: Path, tmp_path: Path) -> None:
    flat = folder / "cats"
    names = ["a b.jpg", "same.png", "ñandú.JPG"]
    (flat / "notes").mkdir()
    (flat / "list.txt").write_text("a b.jpg\nsame.png\nñandú.JPG\n")
    (flat / "m.csv").write_text("path\na b.jpg\nsame.png\nñandú.JPG\n")
    for source in (
        {"kind": "folder", "path": str(flat)},
        {"kind": "list", "path": str(flat / "list.txt"), "root": str(flat)},
        {"kind": "manifest", "path": str(flat / "m.csv")},
        {"kind": "glob", "path": f"{flat}/*"},
    ):
        taken = [e for e in _entries(**source) if not e.reason]
        assert sorted(e.path for e in taken) == names, source
        assert {e.label for e in taken} == {None}, source
    assert [e.path for e in _entries(kind="glob", path=f"{flat}/same.png")] == ["same.png"]
    below = _entries(kind="glob", path=f"{tmp_path}/**/same.*")
    assert [e.path for e in below] == ["images/cats/same.png", "images/dogs/same.jpg"]
    with pytest.raises(UserError, match="no image is found"):
        _entries(kind="glob", path=f"{flat}/*.tif")
    (flat / "list.txt").write_text("a b.jpg\nsame.png 3\n")
    with pytest.raises(UserError, match=r"line 2: .* has a label, and the lines above have none"):
        _entries(kind="list", path=str(flat / "list.txt"), root=str(flat))


def test_links_are_followed_once_and_system_folders_are_no_classes(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (folder / "cats/a b.jpg").rename(tmp_path / "elsewhere/deep/a b.jpg")
    (tmp_path / "elsewhere/back").symlink_to(folder)
    (folder / "birds").symlink_to(tmp_path / "elsewhere")
    (folder / "dogs/one.jpg").symlink_to(tmp_path / "elsewhere/deep/a b.jpg")
    (folder / "dogs/self").symlink_to(folder / "dogs")
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "dogs/@eaDir"):
        (folder / name).mkdir()
        (folder / name / "x.jpg").write_bytes((folder / "dogs/same.jpg").read_bytes())
    (folder / "xml").mkdir()
    (folder / "xml/same.xml").write_text("<annotation/>")
    found = {e.path: e.label for e in _entries(kind="folder", path=str(folder)) if not e.reason}
    assert found == {
        "birds/deep/a b.jpg": "birds",
        "cats/same.png": "cats",
        "cats/ñandú.JPG": "cats",
        "dogs/one.jpg": "dogs",
        "dogs/same.jpg": "dogs",
        "dogs/x.y.jpeg": "dogs",
    }
