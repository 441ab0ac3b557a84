"""No false sentence on the page, whatever became of the audit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import pytest
from known import KEPT, known_lake

from ttame_core import spec
from ttame_core.audits.record import Outcome, write_record
from ttame_core.lake import Lake
from ttame_core.report.answers import Answer
from ttame_core.report.plots import Plot, Plots
from ttame_core.report.rendering import read_answers, render

BOTH = {"net": "its weights are gone", "other": "its weights are gone"}


@dataclass(frozen=True)
class State:
    """An audit's last record: the answers, and the page's words."""

    trust: Answer
    look: Answer
    best: Answer
    change: Answer
    page: str

    @property
    def words(self) -> str:
        """All words of the four answers."""
        answers = (self.trust, self.look, self.best, self.change)
        return "\n".join(
            text for a in answers for text in (a.short, *(line.words for line in a.lines))
        )


@pytest.fixture
def state(
    drawn: tuple[Lake, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., State]:
    """Make the last of records with these failures, of a lake without some things."""
    monkeypatch.setattr(Plots, "_draw", lambda self, draw, heading, *_: Plot(heading, ""))

    def make(
        *failures: dict[str, str], without: Sequence[str] = (), gates: Sequence[dict] = ()
    ) -> State:
        lake, audit = known_lake(drawn[0], tmp_path / "lake", without)
        if gates:
            checks = [spec.Gate.model_validate(gate) for gate in gates]
            audit = audit.model_copy(update={"gates": checks})
        for day, failed in enumerate(failures or ({},), 1):
            outcome = Outcome(failed, datetime(2026, 1, day, tzinfo=UTC))
            folder = write_record(lake, audit, outcome, render)
        page = Path(lake.path(f"{folder}/report.html")).read_text()
        body = re.sub(r"<(style|script|svg).*?</\1>|<[^>]*>", " ", page, flags=re.S)
        return State(*read_answers(lake, folder), unescape(" ".join(body.split())))

    return make


def test_all_failed(state: Callable[..., State]) -> None:
    last = state(BOTH)
    assert last.trust.short == "No: every classifier failed"
    assert last.best.short == "Not known: no explainer was measured"
    assert (last.look.tone, last.look.short) == ("bad", "2 failed classifiers")
    assert last.change.short == "This is the first audit of this name"
    assert "No classifier's images of drawn (test) were explained." in last.page
    for word in ("Nothing stands out", "0 classifiers", "Yes", "best beats"):
        assert word not in last.words


def test_one_failed(state: Callable[..., State]) -> None:
    last = state({"other": BOTH["other"]})
    assert last.trust.short == "Not on other: failed"
    assert "1 classifier (net) on 12 images" in last.page
    assert "other failed." in last.words
    assert last.look.short == "1 failed classifier"
    assert "On 2 predictions most maps peak off every annotated object" in last.words


def test_the_second_audit_of_a_name_whose_first_failed(state: Callable[..., State]) -> None:
    last = state(BOTH, {})
    assert last.change.short == "Nothing to compare with"
    assert "of 2026-01-01 00:00" in last.words
    assert "first audit" not in last.words


def test_the_audit_after_one_that_failed(state: Callable[..., State]) -> None:
    last = state({}, BOTH)
    assert last.change.short == "Not known"
    assert "Nothing beyond chance" not in last.words


def test_a_classifier_that_failed_last_time(state: Callable[..., State]) -> None:
    last = state({"other": BOTH["other"]}, {})
    assert last.change.short == "Nothing beyond chance"
    assert "net: since the audit of 2026-01-01 00:00." in last.words
    assert "other: nothing earlier to compare with." in last.words


def test_no_image(state: Callable[..., State]) -> None:
    last = state(without=["images"])
    assert last.trust.short == "No: no image was explained"
    assert last.look.short == "No image was explained"
    assert last.best.short == "Not known: no explainer was measured"


def test_one_class(state: Callable[..., State]) -> None:
    last = state(without=["classes"])
    assert last.trust.tone == "care"
    assert "all images are of one class" in last.words


def test_no_labels(state: Callable[..., State]) -> None:
    last = state(without=["labels"])
    assert last.trust.tone == "care"
    assert "accuracy is not known" in last.words
    assert "Which predictions are wrong is not known: no image has a label." in last.words
    assert "Nothing stands out" not in last.words


def test_no_boxes(state: Callable[..., State]) -> None:
    last = state(without=["boxes"])
    assert last.trust.tone == "care"
    assert "How much a map could keep is not known: that takes annotated objects, and" in last.words
    assert "whether its answers depend on which part of an image is left is not known" in last.words
    assert "Shortcuts were not looked for: that takes annotated objects" in last.words
    assert "off every annotated object" not in last.words


def test_gates_failed(state: Callable[..., State]) -> None:
    last = state(gates=[{"accuracy": {"at_least": 99}}])
    assert last.trust.short == "Not on net: gates do not hold"
    assert last.look.short == "1 failed check"
    assert (last.look.tone, last.change.tone) == ("bad", "bad")
    assert last.change.short == "This is the first audit of this name; 1 check of the gates failed"
    assert "What changed since the last audit" not in last.page
    assert "A gate is a limit that the audit's YAML file sets." in last.page


def test_few_images_are_never_green(state: Callable[..., State]) -> None:
    last = state()
    assert (last.trust.tone, last.trust.short) == (
        "care",
        "With care: only 12 images, and 6 more reasons",
    )


def test_what_needs_a_look_is_said_of_each_classifier(state: Callable[..., State]) -> None:
    last = state()
    assert last.look.short == "2 possible shortcuts of 1 classifier"
    assert "Read the order of the numbers" not in last.page
    assert "On 2 predictions (net 2) most maps peak off every annotated object" in last.words
    assert "Wrong predictions: net 1 of 12." in last.words


SMALL = (
    "Half of the 12 trust numbers of net with maps of ttame are 9 or less: on average the marked "
    "15 % of the pixels keep 9 % of the confidence"
)


@pytest.mark.parametrize(
    ("oracle", "without", "why"),
    [
        (0.95, [], ", where the annotated objects keep 81 %, so that these maps show too little"),
        (0.3, [], ", and even the annotated objects keep no more than 26 %, so that the"),
        (0.95, ["boxes"], "; whether that is for the maps, or for a classifier that recognises"),
    ],
)
def test_small_trust_is_explained(
    state: Callable[..., State],
    monkeypatch: pytest.MonkeyPatch,
    oracle: float,
    without: Sequence[str],
    why: str,
) -> None:
    kept = {"ttame": 0.1, "gradcam": 0.05, "random": 0.01, "oracle": oracle}
    for name, share in kept.items():
        monkeypatch.setitem(KEPT, name, share)
    page = state(without=without).page.replace("\u00a0", " ")
    assert SMALL + why in page
    assert "Read the order of the numbers, then, and not their size." in page


def test_classifiers_have_one_order(state: Callable[..., State]) -> None:
    last = state(gates=[{"accuracy": {"at_least": 99}}, {"AD@15": {"at_most": 0}}])
    assert last.trust.short == "No: gates do not hold"
    failed = [line.words for line in last.change.lines]
    assert [re.findall(r"\bnet|other\b", words) for words in failed[:4]] == (
        [["net"]] * 3 + [["other"]]
    )
    assert failed[4:] == ["And 1 more."]
    assert re.search(r"\bnet\b.*\bother\b", last.page.split(" on 12 images")[0])
    checks = last.page.split("what was measured", 1)[1].split("Leaderboard")[0]
    for word in ("fails", "doubtful", "not known", "holds"):
        names = re.findall(rf"\b(net|other) [A-Z][a-z ]+ {word}\b", checks)
        assert names == sorted(names)
        assert names


def test_the_first_screen_says_what_its_names_are(state: Callable[..., State]) -> None:
    last = state()
    for name, what in (("oracle", "the annotated objects themselves"), ("random", "noise")):
        first = re.search(rf"\b{name}\b.*", last.page)
        assert first
        assert first[0].startswith(f"{name} ({what})")
    assert re.search(r"\bttame learned\b", last.words)
    assert not re.search(r"T-TAME|\bheads?\b", last.words)
