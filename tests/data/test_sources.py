"""Folders, lists and manifests give the right entries, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttame_core import spec
from ttame_core.data.sources import open_source
from ttame_core.errors import UserError


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
        "loose.jpg": "image",
    }
    assert found["birds"].label == "birds"  # an empty folder is still a class


def test_a_folder_for_each_split(folder: Path, tmp_path: Path) -> None:
    found = _entries(kind="folder", path={"train": str(folder), "test": str(folder)})
    assert {e.split for e in found} == {"train", "test"}
    assert len({e.path for e in found}) == 10


def test_list_with_spaces_in_paths(folder: Path, tmp_path: Path) -> None:
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
    (folder / "m.csv").write_text("path,label,split\ncats/a b.jpg,1,testing\n")
    with pytest.raises(UserError, match="row 1: unknown split 'testing'"):
        _entries(kind="manifest", path=str(folder / "m.csv"))


@pytest.mark.parametrize("kind", ["folder", "list", "manifest"])
def test_a_source_that_is_not_there(kind: str, tmp_path: Path) -> None:
    root = {"root": str(tmp_path)} if kind == "list" else {}
    with pytest.raises(UserError, match="nowhere"):
        _entries(kind=kind, path=str(tmp_path / "nowhere"), **root)
