"""The rule of trust: each row of its table in the docs, both ways, and the answer that follows."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from types import SimpleNamespace

import pytest
from pages import DOCS

from ttame_core.report.evidence import Evidence, Interval, _losses
from ttame_core.report.trust import REASONS, judged, trust

GOOD = Evidence(
    "net",
    gates=2,
    images=400,
    labelled=400,
    classes=10,
    usual=40,
    commonest=10.0,
    outputs=10,
    accuracy=Interval(90, 87, 93),
    normalised={
        **{"pictures": 200, "before": 71.0, "right_before": 80.0},
        **{"way": None, "after": None, "right_after": None},
    },
    discrimination=Interval(60, 55, 65),
    way={"ttame": Interval(90, 85, 95), "gradcam": Interval(60, 55, 65)},
    gain={"ttame": Interval(54, 50, 58), "gradcam": Interval(36, 30, 40)},
    permuted={"ttame": 0.3},
    randomised={"ttame": 0.1, "gradcam": -0.2},
    trained=["ttame"],
    losses={"ttame": (9.0, 2.0, 0.1)},
    weak={"ttame": []},
    between_images={"ttame": 0.1, "gradcam": 0.2},
    between_classes={"ttame": 0.4, "gradcam": 0.1},
)
NONE = Interval(1, -1, 3)  # a gain that may be chance
# For each row of the table: what is changed of GOOD, the colour that follows, whether it is known.
CASES: dict[str, list[tuple[dict, str, bool]]] = {
    "The run": [({"failure": "no weights"}, "bad", True), ({}, "good", True)],
    "Gates": [
        ({"broken": ["AD@15 of ttame on net rose."]}, "bad", True),
        ({"gates": 1}, "good", True),
    ],
    "Images": [
        ({"images": 0}, "bad", True),
        ({"images": 25}, "care", True),
        ({"images": 99}, "care", True),
        ({"images": 100}, "good", True),
    ],
    "Images of a class": [
        ({"labelled": 0, "usual": None, "classes": 0}, "care", False),
        ({"usual": 4}, "care", True),
        ({"classes": 1}, "care", True),
        ({"usual": 5}, "good", True),
    ],
    "Accuracy": [
        ({"accuracy": Interval(0, 0, 0)}, "bad", True),
        ({"accuracy": Interval(0, 0, 0), "classes": 1, "commonest": 100.0}, "bad", True),
        ({"accuracy": Interval(10, 8, 12)}, "bad", True),
        ({"accuracy": Interval(85, 80, 90), "commonest": 85.0}, "bad", True),
        ({"accuracy": Interval(12, 9, 15)}, "care", True),
        ({"accuracy": Interval(49, 45, 53)}, "care", True),
        ({"accuracy": None}, "care", False),
        ({"accuracy": Interval(50, 45, 55)}, "good", True),
        ({"accuracy": Interval(90, 80, 95), "classes": 1, "commonest": 100.0}, "good", True),
    ],
    "Preprocessing": [
        (
            {"normalised": {**(GOOD.normalised or {}), "way": "swapped", "after": 82.0}},
            "care",
            True,
        ),
        ({}, "good", True),
    ],
    "Discrimination": [
        ({"discrimination": Interval(29.9, 20, 40)}, "bad", True),
        ({"discrimination": Interval(31, 29, 40)}, "care", True),
        ({"discrimination": None}, "care", False),
        ({"discrimination": Interval(31, 30, 40)}, "good", True),
        ({"discrimination": Interval(20, 15, 25), "minimum": 10}, "good", True),
    ],
    "Better than random": [
        ({"gain": {"ttame": NONE, "gradcam": NONE}}, "bad", True),
        ({"gain": {"ttame": Interval(54, 50, 58), "gradcam": NONE}}, "care", True),
        ({"way": {"ttame": Interval(55, 49, 61)}}, "care", True),
        ({"way": {}}, "care", False),
        ({"gain": {}, "way": {}}, "care", False),
        ({"way": {"ttame": Interval(55, 50, 60)}}, "good", True),
    ],
    "Permuted labels": [
        ({"permuted": {"ttame": 0.8}}, "care", True),
        ({"permuted": {}}, "care", False),
        ({"permuted": {"ttame": 0.79}}, "good", True),
    ],
    "Random weights": [
        ({"randomised": {"ptame": 1.0}}, "bad", True),
        ({"randomised": {"ptame": 1.0, "ttame": 0.1}}, "care", True),
        ({"randomised": {"ttame": 0.5}}, "care", True),
        ({"randomised": {}}, "care", False),
        ({"randomised": {"ttame": 0.49}}, "good", True),
    ],
    "Training": [
        ({"losses": {"ttame": (2.0, 2.0, 0.0)}}, "bad", True),
        ({"losses": {"ttame": (2.0, 2.3, 0.1)}}, "bad", True),
        ({"losses": {"ttame": (2.0, 2.15, 0.1)}}, "care", True),
        ({"losses": {"ttame": (2.0, nan, 0.1)}}, "bad", True),
        ({"losses": {"ttame": (2.0, inf, 0.1)}}, "bad", True),
        ({"losses": {}}, "care", False),
        ({"losses": {"ttame": (2.0, 1.9, 0.1)}}, "good", True),
    ],
    "Each class": [
        ({"weak": {"ttame": ["raccoon"]}}, "care", True),
        ({"weak": {}}, "care", False),
        ({"weak": {"ttame": []}}, "good", True),
    ],
    "Maps of different images": [
        ({"between_images": {"ttame": 0.95, "gradcam": 0.9}}, "bad", True),
        ({"between_images": {"ttame": 0.95, "gradcam": 0.1}}, "care", True),
        ({"between_images": {"ttame": 0.7}}, "care", True),
        ({"between_images": {}}, "care", False),
        ({"between_images": {"ttame": 0.69}}, "good", True),
    ],
    "Maps of different classes": [
        ({"between_classes": {"ttame": 0.9}}, "care", True),
        ({"between_classes": {}}, "care", False),
        ({"between_classes": {"ttame": 0.89}}, "good", True),
    ],
}
TONES = ("bad", "care", "good")  # of the table's columns


def _table() -> dict[str, list[str]]:
    """The cells of the rule in the docs, by the name of the reason."""
    text = (DOCS / "trust.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {title.strip(): [c.strip() for c in cells] for title, *cells in rows[2:]}


def test_docs_code_and_cases_have_the_same_reasons() -> None:
    titles = [reason.title for reason in REASONS]
    assert list(_table()) == titles == list(CASES)


@pytest.mark.parametrize("title", CASES)
def test_each_row_has_a_case_of_each_of_its_colours(title: str) -> None:
    cells = _table()[title]
    written = {tone for tone, cell in zip(TONES, cells, strict=True) if cell != "–"}
    assert written == {tone for _, tone, _ in CASES[title]}
    assert "good" in written
    assert written & {"bad", "care"}


@pytest.mark.parametrize(
    ("title", "change", "tone", "known"),
    [(title, *case) for title, cases in CASES.items() for case in cases],
)
def test_a_reason_decides_alone(title: str, change: dict, tone: str, known: bool) -> None:
    checks = {check.title: check.weighed for check in judged([replace(GOOD, **change)])}
    weighed = checks.pop(title)
    assert (weighed.tone, weighed.known) == (tone, known)
    assert weighed.words.endswith(".")
    answer = trust([replace(GOOD, **change)])
    if all(other.tone == "good" for other in checks.values()):
        assert answer.tone == tone
        if tone != "good":
            assert any(weighed.words in line.words for line in answer.lines)


@pytest.mark.parametrize(
    ("title", "change"),
    [
        ("Gates", {"gates": 0}),
        ("Permuted labels", {"trained": []}),
        ("Training", {"trained": []}),
        ("Each class", {"trained": []}),
    ],
)
def test_a_reason_that_does_not_apply_is_left_out(title: str, change: dict) -> None:
    answer = trust([replace(GOOD, **change)])
    assert title not in {check.title for check in judged([replace(GOOD, **change)])}
    assert answer.tone == "good"


def test_the_audit_that_was_called_good() -> None:
    """25 images, accuracy 0.0 %, AD@15 of 97.9 beside 99.8 of random maps."""
    change = {
        "images": 25,
        "labelled": 25,
        "classes": 1,
        "usual": 25,
        "commonest": 100.0,
        "outputs": 1000,
        "accuracy": Interval(0, 0, 0),
        "discrimination": Interval(9, 2, 16),
        "gain": {"ttame": Interval(1.9, 0.4, 3.4)},
        "way": {"ttame": Interval(21, 3, 40)},
    }
    answer = trust([replace(GOOD, **change)])
    assert answer.tone == "bad"
    assert answer.short == "No: accuracy is no better than chance"


def test_the_worst_classifier_colours_the_answer_and_is_named() -> None:
    poor = replace(GOOD, backbone="poor", discrimination=Interval(5, 1, 9))
    broken = Evidence("broken", failure="no weights")
    assert (
        trust([GOOD, poor]).short == "Not on poor: it matters little which part of an image is left"
    )
    assert trust([GOOD, broken]).short == "Not on broken: failed"
    gated = [replace(poor, backbone=name, broken=["A fell."]) for name in ("a", "b", "c")]
    assert trust([*gated, GOOD]).short == "Not on a, b and 1 more: gates do not hold"
    assert trust([broken, *gated]).short == (
        "Not on a, b and 1 more: gates do not hold; nor on broken"
    )
    row = {**(GOOD.normalised or {}), "way": "swapped", "after": 82.0, "right_after": 91.4}
    doubted = replace(GOOD, backbone="bgr", normalised=row)
    assert trust([GOOD, doubted]).short == "With care on bgr: preprocessing in doubt"
    assert trust([doubted]).short == "With care: preprocessing in doubt"
    assert trust([doubted]).lines[1].words == (
        "bgr: as the audit prepares 200 pictures, it recognises 80 % of them, and the mean "
        "probability of their labels is 71.0 %; with red and blue swapped, these numbers are 91 % "
        "and 82.0 %: the key preprocessing in the audit's YAML file seems to be wrong for it."
    )
    answer = trust([replace(doubted, permuted={}), GOOD])
    assert answer.lines[0].words == "26 of 28 checks hold; not made: 1."
    assert [line.quiet for line in answer.lines] == [False, False, True]  # what is not known
    assert trust([broken]).short == "No: every classifier failed"
    assert trust([]).short == "No: no classifier was audited"
    assert trust([GOOD]).short == "Yes: all 14 checks hold"
    few = replace(GOOD, images=30)
    assert trust([few, replace(few, backbone="other")]).short == "With care: only 30 images"
    untested = replace(GOOD, randomised={})
    assert trust([untested]).short == "Not fully known: 1 of 14 checks not made"
    assert trust([replace(poor, backbone="net"), poor]).tone == "bad"


def test_the_noise_of_a_loss_is_that_around_its_course() -> None:
    values = [10 - 0.01 * i + (-1) ** i for i in range(40)]  # one up, one down
    rows = [
        {"backbone": "net", "explainer": "ttame", "metric": "loss", "step": i, "value": value}
        for i, value in enumerate(values)
    ]
    losses = _losses(SimpleNamespace(series={"training": rows}), "net", ["ttame", "tame"])
    assert losses == {"ttame": (11.0, pytest.approx(9.615), pytest.approx(2**0.5, rel=0.01))}
