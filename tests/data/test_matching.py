"""Which class of a classifier each class of a data set is: the rule, its order, and its words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ttame_core.backbones.classes import ClassList, _imagenet, names_of
from ttame_core.data.labels import UNKNOWN
from ttame_core.data.matching import Classifier, DataClasses, Match, match_classes
from ttame_core.errors import UserError

IMAGENET = ClassList(_imagenet("imagenet-1k"))
WNIDS = ["n01440764", "n02102040", "n02979186", "n03000684", "n03028079"]


def match(
    names: list[str],
    classes: ClassList | list[str] | int,
    labels: dict[str, str] | None = None,
    **options: Any,
) -> Match:
    """Match a data set of these classes; options: ordered, present, fit."""
    known = classes if isinstance(classes, ClassList) else ClassList()
    known = names_of(classes) if isinstance(classes, list) else known
    count = classes if isinstance(classes, int) else len(known.entries)
    present = options.pop("present", [*range(len(names))])
    data = DataClasses(names, present, options.pop("ordered", False))
    return match_classes(data, Classifier("net", count, known), labels or {}, **options)


@pytest.mark.parametrize(
    ("names", "numbers", "rule"),
    [
        (WNIDS, [0, 217, 482, 491, 497], "wnid"),
        (["n02085620-Chihuahua", "n01877812_wallaby"], [151, 104], "wnid"),
        (["wallaby"], [104], "name"),
        (["Brush_Kangaroo", "golf-ball", "ENGLISH SPRINGER"], [104, 574, 217], "name"),
        ([str(n) for n in range(105)], [*range(105)], "number"),
    ],
)
def test_classes_of_imagenet(names: list[str], numbers: list[int], rule: str) -> None:
    found = match(names, IMAGENET)
    assert list(found.classes) == numbers
    assert set(found.rules) == {rule}
    assert found.theirs.names[104] == "wallaby"


def test_one_folder_of_wallabies_whose_name_is_a_number() -> None:
    names = [str(n) for n in range(105)]
    found = match(names, IMAGENET, present=[104])
    assert found.translate(torch.tensor([104, UNKNOWN, 3])).tolist() == [104, UNKNOWN, UNKNOWN]
    assert found.sentence == "1 of 1 class of the data set matched by number (104 = wallaby)."


def test_names_in_another_order() -> None:
    found = match(["bird", "cat", "dog"], ["Dog", "bird", "CAT"])
    assert list(found.classes) == [1, 2, 0]
    assert found.translate(torch.tensor([0, 1, 2, 2])).tolist() == [1, 2, 0, 0]


def test_wnids_of_a_classifier_that_knows_names_alone() -> None:
    found = match(["n01440764", "n03028079"], ["church", "tench"])
    assert list(found.classes) == [1, 0]


def test_a_mapping_says_what_names_do_not() -> None:
    found = match(["kangaroo", "koala", "x"], IMAGENET, {"kangaroo": "wallaby", "x": "7"})
    assert list(found.classes) == [104, 105, 7]
    assert list(found.rules) == ["labels", "name", "labels"]
    assert found.sentence == (
        "3 of 3 classes of the data set matched 2 by `labels`, 1 by name "
        "(kangaroo = wallaby, koala, x = cock)."
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"kangaroo": "walaby"}, "which is no class of backbone net. Did you mean wallaby"),
        ({"kangaro": "wallaby"}, "which the data set does not have. Did you mean kangaroo"),
        ({"kangaroo": "crane"}, "name of several classes .*: say which, n02012849, n03126707"),
        ({"kangaroo": "1000"}, "which is no class"),
    ],
)
def test_a_wrong_mapping(labels: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        match(["kangaroo"], IMAGENET, labels)


def test_what_the_classifier_does_not_have_is_left_out_and_said() -> None:
    found = match(["koala", "pangolin", "crane"], IMAGENET)
    assert list(found.classes) == [105, None, None]  # which of two cranes, the name does not say
    assert found.unmatched == ["pangolin", "crane"]
    assert "left out of the accuracy: pangolin, crane" in found.sentence


def test_places_count_only_where_nothing_better_is_known() -> None:
    assert list(match(["a", "b"], 2).classes) == [0, 1]
    assert "by their places in the sorted list alone" in match(["a", "b"], 2).sentence
    assert match(["a", "b"], 2).theirs.names == ["a", "b"]
    for names, classes in (
        (["a", "b"], 3),  # counts differ
        (["cat", "dog"], ["Katze", "Hund"]),  # names are known, and say nothing
        (["cat", "dog"], IMAGENET),
    ):
        with pytest.raises(UserError, match=r"`labels: \{.*: …\}`"):
            match(names, classes)
    assert list(match(["cat", "dog"], ["Katze", "Hund"], ordered=True).classes) == [0, 1]


def test_numbers() -> None:
    assert list(match(["0", "1", "2"], 10).classes) == [0, 1, 2]
    assert list(match(["001", "002"], 10).classes) == [1, 2]
    from_one = match(["0", "1", "2"], 2, present=[1, 2])
    assert list(from_one.classes) == [None, 0, 1]
    assert set(from_one.rules) == {"", "position"}
    assert list(match(["001", "002", "003"], 3, present=[0, 1], ordered=True).classes)[:2] == [0, 1]
    assert list(match(["3", "7"], ["7", "3"]).classes) == [1, 0]  # digits that are names
    with pytest.raises(UserError, match="cannot be matched"):
        match([str(n) for n in range(6)], 3, present=[4, 5])
    assert match(["0", "1"], 2).theirs.names == ["class 0", "class 1"]


def test_names_that_only_the_number_of_classes_speaks_for() -> None:
    assumed = ClassList(IMAGENET.entries, given=False)
    assert match(WNIDS, assumed).theirs.names[0] == "tench"
    numbers = match(["0", "7"], assumed)
    assert list(numbers.classes) == [0, 7]
    assert numbers.theirs.names[7] == "class 7"  # it may be any classifier of as many classes
    own = match([f"product {n:04}" for n in range(1000)], assumed)
    assert set(own.rules) == {"position"}
    assert own.theirs.names[3] == "product 0003"


def test_trained_here() -> None:
    found = match(["n01440764", "b"], 2, fit=True)
    assert list(found.classes) == [0, 1]
    assert found.theirs.names == ["tench", "b"]


def test_no_labels() -> None:
    found = match([], IMAGENET)
    assert found.translate(torch.tensor([UNKNOWN, UNKNOWN])).tolist() == [UNKNOWN, UNKNOWN]
    assert found.sentence == "The images have no labels: accuracy is not known."
