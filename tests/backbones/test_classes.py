"""What a classifier calls its classes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from timm.data import ImageNetInfo

from ttame_core import spec
from ttame_core.backbones.classes import ClassList, class_list, names_of
from ttame_core.errors import UserError


def known(count: int, net: Any = None, **settings: Any) -> ClassList:
    section = spec.Backbone.model_validate({"model": "resnet18", "pretrained": True, **settings})
    return class_list(section, net or SimpleNamespace(), count)


def test_a_pretrained_model_of_timm() -> None:
    found = known(1000)
    assert found.given
    wallaby = found.entries[104]
    assert (wallaby.name, wallaby.wnid) == ("wallaby", "n01877812")
    assert wallaby.full == ImageNetInfo().index_to_description(104)
    assert "kangaroos" in wallaby.definition
    assert len(set(found.names)) == 1000
    assert not known(1000, checkpoint="file", pretrained=False).given
    assert known(10) == ClassList()


def test_a_model_that_names_its_labels() -> None:
    model = SimpleNamespace(
        pretrained_cfg={"label_names": ["a1", "b2"], "label_descriptions": {"a1": "apple"}}
    )
    assert known(2, model).names == ["a1 apple", "b2"]


def test_torchvision() -> None:
    found = known(1000, model="torchvision/resnet50")
    assert found.entries[0].wnid == "n01440764"
    assert (found.find("crane"), found.find("crane bird")) == ([517], [134])


def test_a_hugging_face_model() -> None:
    model = SimpleNamespace(config=SimpleNamespace(id2label={1: "dog", 0: "cat"}))
    assert known(2, model).names == ["cat", "dog"]
    placeholders = SimpleNamespace(config=SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"}))
    assert known(2, placeholders) == ClassList()


def test_the_two_lists_of_a_hugging_face_model_agree() -> None:
    names = {0: "cat", 1: "dog"}
    agreed = SimpleNamespace(id2label=names, label2id={"dog": 1})
    assert known(2, SimpleNamespace(config=agreed)).names == ["cat", "dog"]
    swapped = SimpleNamespace(config=SimpleNamespace(id2label=names, label2id={"dog": 0, "cat": 1}))
    with pytest.raises(UserError, match="class 0 is cat in its `id2label` and dog in its"):
        known(2, swapped)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "cat\n\ndog\n"),
        ("classes.json", json.dumps(["cat", "dog"])),
        ("classes.json", json.dumps({"1": "dog", "0": "cat"})),
        ("classes.json", json.dumps({"dog": 1, "cat": 0})),
    ],
    ids=["lines", "list", "by number", "by name"],
)
def test_names_in_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert known(2, class_names=str(tmp_path / name)).names == ["cat", "dog"]


def test_numbers_of_names_have_no_gaps(tmp_path: Path) -> None:
    gap = SimpleNamespace(config=SimpleNamespace(id2label={0: "cat", 2: "dog"}))
    with pytest.raises(UserError, match=r"`id2label` no class has the number 1"):
        known(2, gap)
    (tmp_path / "n.json").write_text(json.dumps({"0": "cat", "5": "dog"}))
    with pytest.raises(UserError, match="no class has the number 1"):
        known(2, class_names=str(tmp_path / "n.json"))
    (tmp_path / "n.json").write_text(json.dumps({"1": "cat", "2": "dog"}))
    assert known(2, class_names=str(tmp_path / "n.json")).names == ["cat", "dog"]
    unnamed = SimpleNamespace(config=SimpleNamespace(id2label={0: None, 1: "dog", 2: " "}))
    assert known(3, unnamed).names == ["class 0", "dog", "class 2"]


def test_names_in_the_spec(tmp_path: Path) -> None:
    assert known(2, class_names=["cat", "dog"]).names == ["cat", "dog"]
    assert known(1000, class_names="imagenet-1k").names[104] == "wallaby"
    (tmp_path / "wnids.txt").write_text("n01877812\nn01440764 my tench\n")
    found = known(2, class_names=str(tmp_path / "wnids.txt"))
    assert found.names == ["wallaby", "my tench"]
    assert found.find("n01440764") == [1]
    with pytest.raises(UserError, match="has 3 classes, but `class_names` names 2"):
        known(3, class_names=["cat", "dog"])
    with pytest.raises(UserError, match="cannot be read"):
        known(3, class_names=str(tmp_path / "none.txt"))


def test_classes_by_number_name_and_part_of_a_name() -> None:
    classes = names_of(["tabby, tabby cat", "heron", "7"])
    assert classes.number_of("Tabby cat") == 0
    assert classes.number_of("1") == 1
    assert classes.number_of("7") == 2
    with pytest.raises(UserError, match="Did you mean heron"):
        classes.number_of("hern")
    with pytest.raises(UserError, match="classes 0 to 2, such as tabby, tabby cat, heron"):
        classes.number_of("3")
    assert ClassList().for_readers(3).names == ["class 0", "class 1", "class 2"]
    assert ClassList().for_readers(3).number_of("class 2") == 2
    with pytest.raises(UserError, match=r"several classes: crane \(n02012849\) \(134\)"):
        known(1000).number_of("crane")
