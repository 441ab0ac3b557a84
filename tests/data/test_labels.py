"""Labels are text, and numbers where all of them are."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from tiny import PLAIN, shard_all

from ttame_core import spec
from ttame_core.data.index import load_classes
from ttame_core.data.labels import (
    UNKNOWN,
    alike_names,
    class_of,
    classes_of,
    label_of,
    labels_of,
)
from ttame_core.data.loader import load_batches
from ttame_core.data.plan import plan_shards
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (["dog", "cat"], ["cat", "dog"], [1, 0]),
        ([str(n) for n in range(12)], [str(n) for n in range(12)], list(range(12))),
        (["2.0", "10.0", "0.0"], [str(n) for n in range(11)], [2, 10, 0]),
        (["104"], [str(n) for n in range(105)], [104]),
        (["001", "002"], ["001", "002"], [0, 1]),
        (["010", "009", "100"], ["009", "010", "100"], [1, 0, 2]),
        (["5229490", "99"], ["99", "5229490"], [1, 0]),
        (["1.5", "2.0"], ["1.5", "2.0"], [0, 1]),
        (["²", "3"], ["3", "²"], [1, 0]),
        ([], [], []),
    ],
)
def test_classes_of_labels(labels: list[str], classes: list[str], numbers: list[int]) -> None:
    found = classes_of(labels)
    assert list(found) == classes
    assert [class_of(label, found) for label in labels] == numbers


def test_no_class() -> None:
    assert class_of("bird", ("cat", "dog")) is None
    assert class_of("2", ("cat", "dog")) is None
    assert class_of("1", ("cat", "dog")) == 1


def _lake(tmp_path: Path, text: str, **settings: object) -> Lake:
    for number in range(12):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "m.csv").write_text(text)
    source = {"kind": "manifest", "path": str(tmp_path / "m.csv")}
    lake = Lake(tmp_path / "lake")
    shard_all(spec.Dataset(name="d", source=source, **settings), lake)
    return lake


def _samples(lake: Lake) -> dict[str, tuple[int, str]]:
    rows = run_query(lake, "SELECT path, label, class FROM samples").to_pylist()
    return {row["path"]: (row["label"], row["class"]) for row in rows}


def test_numbers_with_zeros_before_them_are_names(tmp_path: Path) -> None:
    lake = _lake(tmp_path, "path,label\n0.png,001\n1.png,002\n", classes=["001", "002", "003"])
    assert _samples(lake) == {"0.png": (0, "001"), "1.png": (1, "002")}


def test_whole_floats_are_numbers(tmp_path: Path) -> None:
    lake = _lake(tmp_path, "path,label\n" + "".join(f"{n}.png,{n}.0\n" for n in range(12)))
    assert _samples(lake) == {f"{n}.png": (n, str(n)) for n in range(12)}


def test_numbered_folders_count_as_a_list_of_their_numbers_does(tmp_path: Path) -> None:
    for number in (0, 2, 10, 104):
        (tmp_path / f"images/{number}").mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"images/{number}/a.png")
    lake = Lake(tmp_path / "lake")
    source = {"kind": "folder", "path": str(tmp_path / "images")}
    shard_all(spec.Dataset(name="d", source=source), lake)
    assert _samples(lake) == {f"{n}/a.png": (n, str(n)) for n in (0, 2, 10, 104)}


def test_an_unlabelled_data_set(tmp_path: Path) -> None:
    lake = _lake(tmp_path, "path,split\n0.png,test\n1.png,test\n")
    assert _samples(lake) == {"0.png": (None, None), "1.png": (None, None)}
    assert load_classes(lake, "d") == []
    (batch,) = load_batches(lake, "d", ["test-000000"], PLAIN, 4, 1)
    assert batch.labels.tolist() == [[UNKNOWN], [UNKNOWN]]


def test_a_number_beyond_the_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the label 2, but `dataset.classes` names 2 classes"):
        _lake(tmp_path, "path,label\n0.png,1\n1.png,2\n", classes=["cat", "dog"])


def test_a_picture_whose_name_has_no_suffix(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0001", "PNG")
    lake = _lake(tmp_path, "path,label\n0001,cat\n")
    assert _samples(lake) == {"0001": (0, "cat")}
    shard = run_query(lake, "SELECT DISTINCT shard FROM samples").to_pylist()[0]["shard"]
    (batch,) = load_batches(lake, "d", [shard], PLAIN, 4, 1)
    assert batch.images.shape == (1, 3, 64, 64)


def test_a_label_of_unseen_characters_is_missing() -> None:
    assert label_of("\u200bcat\ufeff ") == "cat"
    assert label_of("👩\u200d🚀") == "👩\u200d🚀"
    with pytest.raises(ValueError, match="missing"):
        label_of("\u200b\u00a0")


@pytest.mark.parametrize("value", [[0, 1, 0, 0], [1, 1], [0.0, 1.0], [0.2, 0.8]])
def test_a_number_for_each_class_is_no_list_of_labels(value: list[float]) -> None:
    with pytest.raises(ValueError, match=r"may be a number for each class|a float: give"):
        labels_of(value)
    assert labels_of([2, 0, 2]) == "2\x1f0"  # the classes of three objects
    assert labels_of([0, 1]) == "0\x1f1"


def test_names_that_look_alike_are_said(tmp_path: Path) -> None:
    assert alike_names(["Red fox", "red_fox", "fox", "redfox\u200b", "c++", "c"]) == [
        ["Red fox", "red_fox", "redfox\u200b"]
    ]
    (tmp_path / "m.csv").write_text("path,label\na.png,Cat\nb.png,cat\n")
    for name in "ab":
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
    source = {"kind": "manifest", "path": str(tmp_path / "m.csv")}
    plan = plan_shards(spec.Dataset(name="d", source=source), Lake(tmp_path / "lake"))
    assert "the classes 'Cat', 'cat' are told apart" in plan.remarks[-1]


def test_two_classes_of_one_name() -> None:
    with pytest.raises(ValidationError, match="two classes are called 'cat'"):
        spec.Dataset(name="d", source={"kind": "folder", "path": "."}, classes=["cat", "cat"])
