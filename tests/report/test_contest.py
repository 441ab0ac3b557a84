"""Which explainer is best: by what none was trained for, and never by AD alone."""

from __future__ import annotations

from typing import Any

import pytest

from ttame_core.lake.schemas import RIVAL, YARDSTICK
from ttame_core.report.contest import best_of, contests
from ttame_core.report.tables import Best, Rows

METRICS = ("AD@15", "ROAD", "insertion", "deletion", "pointing_game")


def _rows(values: dict[str, dict[str, float]]) -> Rows:
    """A row per explainer on the backbone net; values: by explainer and metric."""
    return [
        {"backbone": "net", "explainer": name, "role": YARDSTICK if name == "random" else RIVAL}
        | {m: _measured(m, own[m]) if m in own else None for m in METRICS}
        for name, own in values.items()
    ]


def _measured(metric: str, value: float) -> dict[str, Any]:
    return {"metric": metric, "value": value}


def _best(values: dict[str, dict[str, float]], winners: dict[str, tuple[str, bool]]) -> Any:
    best = {metric: {"net": Best(*own)} for metric, own in winners.items()}
    rows = _rows(values)
    return best_of(rows, contests(rows, METRICS, best), "AD@15", [])


TTAME = {"AD@15": 3.0, "ROAD": 20.0, "insertion": 70.0, "deletion": 9.0, "pointing_game": 90.0}
OTHER = {"AD@15": 60.0, "ROAD": 10.0, "insertion": 60.0, "deletion": 12.0, "pointing_game": 80.0}
SURE = {
    "AD@15": ("3.0", True),
    "ROAD": ("20.0", True),
    "insertion": ("70.0", True),
    "deletion": ("9.0", True),
    "pointing_game": ("90.0", True),
}


def test_ahead_at_all_beyond_chance_is_green() -> None:
    answer = _best({"ttame": TTAME, "gradcam": OTHER, "random": TTAME}, SURE)
    assert (answer.tone, answer.short) == (
        "good",
        "ttame: ahead in 4 of 4 comparisons, beyond chance in 4",
    )
    assert "as explainers can be trained for it): net ttame (3.0 %)." in answer.lines[-1].words


def test_ad_alone_decides_nothing() -> None:
    only = {"ttame": {"AD@15": 3.0}, "gradcam": {"AD@15": 60.0}}
    answer = _best(only, SURE)
    assert (answer.tone, answer.short) == ("plain", "Not known")
    assert "(AD, IC and AG) is what some, such as ttame, are trained for" in answer.lines[0].words
    better_elsewhere = {"ttame": OTHER | {"AD@15": 3.0}, "gradcam": TTAME | {"AD@15": 60.0}}
    answer = _best(better_elsewhere, SURE)
    assert answer.short.startswith("gradcam: ahead in 4 of 4")


def test_it_is_said_at_what_the_best_is_not() -> None:
    winners = SURE | {"deletion": ("8.0", False)}
    answer = _best({"ttame": TTAME, "gradcam": OTHER | {"deletion": 8.0}}, winners)
    assert (answer.tone, answer.short) == (
        "good",
        "ttame: ahead in 3 of 4 comparisons, beyond chance in 3",
    )
    assert "ttame is not best at deletion (net)." in [line.words for line in answer.lines]
    beaten = _best(
        {"ttame": TTAME, "gradcam": OTHER | {"deletion": 8.0}}, SURE | {"deletion": ("8.0", True)}
    )
    assert beaten.tone == "plain"


@pytest.mark.parametrize(
    ("values", "short"),
    [
        ({}, "Not known: no explainer was measured"),
        ({"random": TTAME}, "Not known: no explainer was measured"),
        ({"ttame": TTAME, "random": OTHER}, "Not known: ttame alone was measured"),
        ({"ttame": TTAME, "gradcam": TTAME}, "No single one: the best are level everywhere"),
    ],
)
def test_without_a_contest_nobody_wins(values: dict, short: str) -> None:
    answer = _best(values, SURE)
    assert (answer.tone, answer.short) == ("plain", short)


def test_less_than_half_of_the_contests_depends() -> None:
    values = {
        "ttame": {"ROAD": 20.0, "insertion": 70.0, "deletion": 12.0, "pointing_game": 0.0},
        "gradcam": {"ROAD": 0.0, "insertion": 0.0, "deletion": 9.0, "pointing_game": 0.0},
        "rise": {"ROAD": 0.0, "insertion": 0.0, "deletion": 12.0, "pointing_game": 90.0},
    }
    answer = _best(values, SURE)
    assert answer.short == "It depends: ttame is ahead in 2 of 4 comparisons"
