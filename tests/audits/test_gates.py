"""Gates over records made by hand: hand-computed changes, what is compared with what, and words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ttame_core import spec
from ttame_core.audits.gates import NewRecord, find_changes, predecessors
from ttame_core.audits.record import Outcome, _left_by
from ttame_core.audits.specification import complete
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect, leaderboard, run_query
from ttame_core.lake.query.directions import direction
from ttame_core.lake.schemas import (
    AUDIT_CHANGES,
    AUDIT_THUMBNAILS,
    AUDIT_VALUES,
    LEADERBOARD,
)

IMAGES = 40
TIMES = [f"2026010{day}T020000Z" for day in range(1, 8)]
RNG = np.random.default_rng(0)
AD = 20 + 10 * RNG.random(IMAGES)
THUMBNAILS = RNG.standard_normal((IMAGES, 196))
THUMBNAILS -= THUMBNAILS.mean(axis=1, keepdims=True)
THUMBNAILS /= np.linalg.norm(THUMBNAILS, axis=1, keepdims=True)


def _audit(*gates: dict[str, Any], **changes: Any) -> spec.AuditSpec:
    return complete(
        spec.AuditSpec.model_validate(
            {
                "name": "zoo",
                "dataset": {"name": "d", "source": {"kind": "shapes"}},
                "backbones": [{"name": n, "model": "resnet18", "pretrained": True} for n in "ab"],
                "explainers": ["ttame", "gradcam", "random"],
                "gates": list(gates),
                **changes,
            }
        )
    )


def _record(
    lake: Lake,
    time: str,
    values: dict[tuple[str, str, str], np.ndarray],
    thumbnails: np.ndarray = THUMBNAILS,
    **about: Any,
) -> str:
    """A whole record; values of single images by backbone, explainer and metric."""
    folder, names = f"audits/zoo/{time}", ("backbone", "explainer", "metric")
    rows = [
        {"dataset": "d", **dict(zip(names, cell, strict=True)), "key": f"k{i}", "value": v}
        for cell, found in values.items()
        for i, v in enumerate(found)
    ]
    lake.write_parquet(f"{folder}/values.parquet", rows, AUDIT_VALUES, "x")
    maps = [
        {"backbone": "a", "explainer": "ttame", "key": f"k{i}", "thumbnail": t.astype(np.float16)}
        for i, t in enumerate(thumbnails)
    ]
    lake.write_parquet(f"{folder}/thumbnails.parquet", maps, AUDIT_THUMBNAILS, "x")
    record = {"dataset": "d", "backbones": ["a", "b"], "failures": {}, "run": time, **about}
    lake.write_json(f"{folder}/record.json", record)
    board = [
        {"dataset": "d", **dict(zip(names, cell, strict=True)), "value": float(np.mean(found))}
        for cell, found in values.items()
    ]
    lake.write_parquet(f"{folder}/leaderboard.parquet", board, LEADERBOARD, "x")
    return folder


def _changes(lake: Lake, time: str, *gates: dict[str, Any], **options: Any) -> list[dict]:
    """Changes of a record that is there, written to where the view finds them."""
    folder = f"audits/zoo/{time}"
    board = lake.read_table(f"{folder}/leaderboard.parquet")
    new = replace(NewRecord(f"zoo/{time}", "this", board, [], []), **options)
    with connect(lake) as db:
        rows = find_changes(lake, db, _audit(*gates), new).rows
    lake.write_parquet(f"{folder}/changes.parquet", rows, AUDIT_CHANGES, "x")
    return run_query(lake, f"FROM audit_changes WHERE timestamp = '{time}'").to_pylist()


@pytest.fixture
def lake(tmp_path: Any) -> Lake:
    return Lake(tmp_path)


CELL = ("a", "ttame", "AD@15")
GATE = {"AD@15": {"explainer": "ttame", "backbone": "a", "worse_by": 2}}


@pytest.mark.parametrize(
    ("shift", "failed"),
    [
        (np.full(IMAGES, 3.0), True),
        (np.full(IMAGES, 1.0), False),  # within what is allowed
        (np.full(IMAGES, -9.0), False),  # better
        (np.where(np.arange(IMAGES) == 0, 200.0, -2.0), False),  # 3 points, of one image alone
        (np.zeros(IMAGES), False),
    ],
    ids=["worse", "little", "better", "chance", "equal"],
)
def test_worse_by_counts_what_is_worse_and_beyond_chance(
    lake: Lake, shift: np.ndarray, failed: bool
) -> None:
    _record(lake, TIMES[0], {CELL: AD})
    _record(lake, TIMES[1], {CELL: AD + shift})
    row, *others = _changes(lake, TIMES[1], GATE)
    assert row["gate"] == "AD@15: {backbone: a, explainer: ttame, worse_by: 2}"
    assert row["previous"] == pytest.approx(AD.mean(), rel=1e-6)
    assert row["value"] == pytest.approx((AD + shift).mean(), rel=1e-6)
    assert row["change"] == pytest.approx(shift.mean(), abs=1e-5)
    assert row["ci_low"] <= row["change"] <= row["ci_high"]
    assert row["failed"] is failed
    assert ("chance" in row["words"]) == (shift[0] == 200)
    # Beyond chance it is told without a gate too, better or worse.
    told = bool(np.ptp(shift) == 0 and shift[0])
    assert [r["gate"] for r in others] == [""] * told
    assert all(not r["failed"] and r["change"] == row["change"] for r in others)


def test_direction_is_the_metrics_own(lake: Lake) -> None:
    cells = [("a", "ttame", "IC@15"), ("a", "-", "accuracy")]
    _record(lake, TIMES[0], dict.fromkeys(cells, AD))
    _record(lake, TIMES[1], dict.fromkeys(cells, AD - 5))
    gates = (
        {"IC@15": {"backbone": "a", "explainer": "ttame", "worse_by": 4}},
        {"accuracy": {"backbone": "a", "worse_by": 6}},
        {"accuracy": {"backbone": "a", "at_least": 30}},
    )
    rows = _changes(lake, TIMES[1], *gates)
    assert [(r["metric"], r["failed"]) for r in rows if r["gate"]] == [
        ("IC@15", True),
        ("accuracy", False),
        ("accuracy", True),
    ]
    assert "5.0 points worse than on 2026-01-01 at 02:00" in rows[0]["words"]
    assert rows[2]["words"] == f"accuracy of a is {AD.mean() - 5:.1f} %; at least 30 is asked for."


def test_the_first_audit_passes_comparisons_but_not_absolute_gates(lake: Lake) -> None:
    _record(lake, TIMES[0], {CELL: AD})
    maps = {"changed_maps": {"explainer": "ttame", "backbone": "a", "at_most": 5}}
    rows = _changes(lake, TIMES[0], GATE, maps, {"AD@15": {"at_most": 10}})
    assert [r["failed"] for r in rows] == [False, False, True, True]
    assert "nothing to be compared with" in rows[0]["words"]
    assert rows[3]["words"] == "AD@15 of b has no value to check." or rows[3]["backbone"] == "b"
    assert _changes(lake, TIMES[0]) == []


def test_maps_that_changed_by_their_correlation(lake: Lake) -> None:
    _record(lake, TIMES[0], {CELL: AD})
    changed = THUMBNAILS.copy()
    changed[:4] = THUMBNAILS[10:14]  # four of forty are others'
    changed[4] = 0.9 * THUMBNAILS[4] + np.sqrt(1 - 0.81) * THUMBNAILS[20]  # correlates by 0.9
    changed[5] = 0
    _record(lake, TIMES[1], {CELL: AD}, changed)
    _record(lake, TIMES[2], {CELL: AD}, changed)
    gates = [
        {"changed_maps": {"explainer": "t*", "backbone": "a", "correlation": c, "at_most": most}}
        for c, most in ((0.8, 12.5), (0.95, 14))
    ]
    first, second, told = _changes(lake, TIMES[1], *gates)
    expected = [
        100 * np.mean((THUMBNAILS * changed).sum(axis=1) < correlation)
        for correlation in (0.8, 0.95)
    ]
    assert expected == [12.5, 15]
    assert [first["value"], second["value"], told["value"]] == [12.5, 15, 12.5]
    assert (first["failed"], second["failed"], told["failed"]) == (False, True, False)
    assert "15.0 % of the maps of ttame on a" in second["words"]
    # The same maps, flat ones among them, did not change.
    assert [r["value"] for r in _changes(lake, TIMES[2], *gates)] == [0, 0]
    least = "FROM map_changes('zoo/{1}', 'zoo/{0}') ORDER BY correlation LIMIT 4".format(*TIMES)
    assert {r["key"] for r in run_query(lake, least).to_pylist()} <= {f"k{i}" for i in range(6)}


def test_each_backbone_is_compared_with_the_last_record_that_has_it(lake: Lake) -> None:
    audit, now = _audit(), f"zoo/{TIMES[6]}"
    _record(lake, TIMES[0], {CELL: AD})
    _record(lake, TIMES[1], {CELL: AD}, failures={"a": "out of memory"})
    _record(lake, TIMES[2], {CELL: AD}, dataset="another")
    _record(lake, TIMES[3], {CELL: AD}, backbones=["b"], run="tried again")
    lake.remove(f"{_record(lake, TIMES[4], {CELL: AD})}/leaderboard.parquet")  # killed half-way
    assert predecessors(lake, audit, now, "tried again") == {
        "a": f"zoo/{TIMES[0]}",
        "b": f"zoo/{TIMES[1]}",
    }
    assert predecessors(lake, audit, now, "new")["b"] == f"zoo/{TIMES[3]}"
    assert predecessors(lake, audit, f"zoo/{TIMES[0]}", "") == {}


def test_a_run_that_is_tried_again_keeps_its_record(lake: Lake) -> None:
    folder = _record(lake, TIMES[0], {CELL: AD}, run="r", failures={"a": "lost its disk"})
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert _left_by(lake, _audit(), Outcome({"a": "again"}, now, "r")) == folder
    assert _left_by(lake, _audit(), Outcome({}, now, "r")) is None  # now it has more to say
    assert _left_by(lake, _audit(), Outcome({"a": "lost its disk"}, now, "another")) is None


def test_what_cannot_be_checked_does_not_hold(lake: Lake) -> None:
    _record(lake, TIMES[0], {CELL: AD})
    gate = {"AD@15": {"explainer": "gradcam", "at_most": 99}}
    rows = _changes(lake, TIMES[0], gate, failed=["b"])
    assert [(r["backbone"], r["failed"], r["words"]) for r in rows] == [
        ("a", True, "AD@15 of gradcam on a has no value to check.")
    ]
    assert _changes(lake, TIMES[0], gate, failed=["b"], absent=[("a", "gradcam")]) == []
    # Yardsticks are left out unless they are named.
    every = _changes(lake, TIMES[0], {"AD@15": {"at_most": 99}}, failed=["b"])
    assert [r["explainer"] for r in every] == ["ttame"]


def test_no_gate_no_failure(lake: Lake) -> None:
    _record(lake, TIMES[0], {CELL: AD, ("a", "random", "AD@15"): AD})
    _record(lake, TIMES[1], {CELL: AD + 50, ("a", "random", "AD@15"): AD + 50})
    (row,) = _changes(lake, TIMES[1])
    assert (row["gate"], row["explainer"], row["failed"]) == ("", "ttame", False)
    assert leaderboard(lake).num_rows == 0  # records alone


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"AD15": {"at_most": 5}}, "does not have. Did you mean AD@15"),
        ({"AD@17": {"at_most": 5}}, "AD@17"),
        ({"ROAD": {"at_least": 5}}, "needs the family road"),
        ({"AD@15": {"explainer": "gradcan", "at_most": 5}}, "Did you mean gradcam"),
        ({"AD@15": {"backbone": "c*", "at_most": 5}}, "on no backbone"),
        ({"accuracy": {"explainer": "ttame", "at_least": 5}}, "a backbone's own"),
        ({"AD@15": {}}, "has no conditions"),
        ({"AD@15": {"at_most": 5, "at_least": 3}}, "has 2 conditions"),
        ({"changed_maps": {"worse_by": 5}}, "takes `at_most`"),
        ({"changed_maps": {"explainer": "random", "at_most": 5}}, "that it could check"),
        ({"AD@15": {"correlation": 0.5, "at_most": 5}}, "only changed_maps"),
        ({"AD@15": {"worse_than": 5}}, "worse_than"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_in_gates(gate: dict[str, Any], words: str) -> None:
    with pytest.raises((ValidationError, UserError)) as error:
        _audit(gate)
    assert words in str(error.value)


def test_without_a_direction_nothing_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    neither = replace(direction("AD@15"), lower_is_better=None)
    monkeypatch.setattr("ttame_core.audits.gates.direction", lambda metric: neither)
    _audit({"AD@15": {"at_most": 5}})
    with pytest.raises(UserError, match="of AD@15 neither direction is worse"):
        _audit({"AD@15": {"worse_by": 5}})


def test_maps_are_compared_only_where_shape_is_asked_for() -> None:
    gate = {"changed_maps": {"at_most": 5}}
    with pytest.raises(UserError, match="needs the family shape"):
        _audit(gate, evaluation={"metrics": ["confidence"]})
    audit = _audit(gate, {"metric": "AD@15", "worse_by": 2})
    assert [g.correlation for g in audit.gates] == [0.8, None]
    assert spec.AuditSpec.model_validate(audit.model_dump(mode="json")) == audit  # as frozen
    check: Callable[[spec.Gate], str] = str
    assert [check(g) for g in audit.gates] == [
        "changed_maps: {at_most: 5, correlation: 0.8}",
        "AD@15: {worse_by: 2}",
    ]
