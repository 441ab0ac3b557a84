"""Classes whose maps are alike: which are named, by hand, and where the report shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest
from known import known_lake

from ttame_core.audits.record import Outcome, write_record
from ttame_core.audits.specification import complete
from ttame_core.lake import Lake, pasted_file, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.variables import set_variables
from ttame_core.lake.schemas import PASTED
from ttame_core.report.findings import (
    how_alike,
    sql_text,
    what_becomes,
    what_change_does,
    what_is_alike,
)
from ttame_core.report.rendering import read_answers, render
from ttame_core.spec import AuditSpec

SHARD = "test-000000"


def named(place: dict[str, list[float]], look: dict[str, list[float]]) -> list[tuple]:
    """Return class, aspect, score and images of the classes that are named, of two explainers.

    place, look: values of the images of each class; of the second explainer they are 0.1 lower, and
    on a second backbone 0.3 lower.
    """
    rows, images = [], []
    for name, values in place.items():
        for i, (where, what) in enumerate(zip(values, look[name], strict=True)):
            for net, lower in (("net", 0.0), ("other", 0.3)):
                images.append(("d", net, f"{name}{i}", name))
                for explainer, less in (("ttame", lower), ("gradcam", lower + 0.1)):
                    rows.append(("d", net, explainer, f"{name}{i}", where - less, what - less))
    rows.append(("d", "net", "random", "a0", 9.0, 9.0))
    with duckdb.connect() as db:
        identity = "dataset TEXT, backbone TEXT"
        db.execute(
            f"CREATE TABLE values_marked ({identity}, explainer TEXT, key TEXT, "
            "place_alike DOUBLE, look_alike DOUBLE)"
        )
        db.execute(f"CREATE TABLE predictions ({identity}, key TEXT, predicted_class TEXT)")
        db.execute(
            f"CREATE TABLE marked ({identity}, explainer TEXT, key TEXT, "
            "target INT, predicted INT, place FLOAT[49])"
        )
        # The maps of class b are above the mean of all classes in cell 7, of class c in cell 25.
        for dataset, net, explainer, key, *_ in rows:
            cells = [1.0 if c == {"a": 0, "b": 6, "c": 24}[key[0]] else 0.0 for c in range(49)]
            marked = (dataset, net, explainer, key, 1, 1, cells)
            db.execute("INSERT INTO marked VALUES (?, ?, ?, ?, ?, ?, ?)", marked)
        db.executemany("INSERT INTO values_marked VALUES (?, ?, ?, ?, ?, ?)", rows)
        db.executemany("INSERT INTO predictions VALUES (?, ?, ?, ?)", images)
        known = {"dataset": "d", "rivals": ["ttame", "gradcam"], "most": 6}
        set_variables(db, {**known, "backbones": ["net"]})
        alone = db.sql(sql_text("alike")).to_arrow_table().to_pylist()
        set_variables(db, {**known, "backbones": ["net", "other"]})
        both = db.sql(sql_text("alike")).to_arrow_table().to_pylist()
    assert all(row["elsewhere"] is None for row in alone)
    found = [row for row in both if row["backbone"] == "net"]
    assert all(row["elsewhere"] == pytest.approx(row["score"] - 0.3) for row in found)
    assert all(row["whose"] == "other" for row in found)
    assert [{**row, "elsewhere": None, "whose": None} for row in found] == alone
    assert all(row["spot"] == {"a": 1, "b": 7, "c": 25}[row["class"]] for row in found)
    assert all(row["kind"] == "alike" for row in found)
    classes = {(row["class"], row["aspect"]) for row in found}
    assert len([row for row in found if row["place"] == 1]) == len(classes)
    return sorted(
        {(row["class"], row["aspect"], round(row["score"], 3), row["images"]) for row in found}
    )


def test_the_other_classifiers_of_an_audit_stand_beside_it() -> None:
    assert how_alike({"score": 0.884, "elsewhere": None}) == "0.88 alike"
    other = {"score": 0.884, "elsewhere": -0.021}
    assert how_alike({**other, "whose": "net"}) == "0.88 alike; those of net −0.02"
    several = how_alike({**other, "whose": None})
    assert several == "0.88 alike; those of other classifiers −0.02 at most"


def test_a_class_is_named_by_the_value_that_a_quarter_of_its_images_reach() -> None:
    low = {name: [0.0] * 5 for name in "abc"}
    # The upper quartile of 0, 0, 0, 0.6, 0.6 is 0.6, and 0.55 with the explainer that has less.
    half = {**low, "b": [0.0, 0.0, 0.0, 0.6, 0.6]}
    assert named(half, low) == [("b", "place", 0.55, 5)]
    assert named(low, half) == [("b", "look", 0.55, 5)]
    assert named(half, half) == [("b", "place", 0.55, 5)]  # which says more
    assert not named(low, low)


def test_the_threshold_of_place_is_for_the_mean_of_explainers() -> None:
    low = {name: [0.0] * 5 for name in "abc"}
    assert named({**low, "b": [0.41] * 5}, low) == [("b", "place", 0.36, 5)]
    assert not named({**low, "b": [0.39] * 5}, low)  # 0.34
    both = {**low, "b": [0.5] * 5, "c": [0.5] * 5}
    assert [row[:2] for row in named(both, low)] == [("b", "place"), ("c", "place")]


def test_a_look_is_named_where_it_is_five_times_that_of_the_median_class() -> None:
    none = {name: [0.0] * 5 for name in "abc"}
    few = {name: [0.06] * 5 for name in "abc"}  # 0.01
    assert named(none, {**few, "b": [0.11] * 5}) == [("b", "look", 0.06, 5)]
    assert not named(none, {**few, "b": [0.09] * 5})  # 0.04
    more = {name: [0.07] * 5 for name in "abc"}  # 0.02, of which five times is 0.1
    assert not named(none, {**more, "b": [0.14] * 5})
    assert named(none, {**more, "b": [0.16] * 5}) == [("b", "look", 0.11, 5)]


@pytest.mark.parametrize(
    ("spot", "words"),
    [
        (1, "the same place, most of all the upper left corner"),
        (4, "the same place, most of all the upper edge"),
        (22, "the same place, most of all the left edge"),
        (25, "the same place, most of all the middle"),
        (48, "the same place, most of all the lower right corner"),
        (None, "the same place"),
    ],
)
def test_a_place_has_a_name(spot: int | None, words: str) -> None:
    assert what_is_alike({"aspect": "place", "spot": spot}) == words
    assert what_is_alike({"aspect": "look", "spot": spot}) == "what looks the same"


ADDED = f"INSERT INTO pasted VALUES ({', '.join('?' * 11)})"


@contextmanager
def no_pastes() -> Iterator[duckdb.DuckDBPyConnection]:
    """Make a view `pasted` without rows, of a data set d whose class 7 is called saw."""
    with duckdb.connect() as db:
        db.execute(
            "CREATE TABLE pasted (dataset TEXT, backbone TEXT, target INT, aspect TEXT, "
            "source TEXT, maps TEXT, key TEXT, before DOUBLE, after DOUBLE, right_before BOOL, "
            "right_after BOOL)"
        )
        db.execute("CREATE TABLE classes (dataset TEXT, backbone TEXT, number INT, name TEXT)")
        db.execute("INSERT INTO classes VALUES ('d', 'net', 7, 'saw')")
        db.execute("CREATE MACRO class_name(number, name) AS coalesce(name, 'class ' || number)")
        yield db


def test_what_becomes_of_other_pictures_is_a_mean_over_pastes() -> None:
    with no_pastes() as db:
        set_variables(db, {"dataset": "d", "backbones": ["net"]})

        def paste(target: int, aspect: str, *sources: tuple[str, str, float]) -> list[dict]:
            for source, maps, after in sources:
                for key, before in (("x", 0.0), ("y", 0.02)):
                    row = ("d", "net", target, aspect, source, maps, key, before, after)
                    db.execute(ADDED, [*row, None, None])
            return db.sql(sql_text("pasted")).to_arrow_table().to_pylist()

        own = [("a", "alike", 0.4), ("b", "alike", 0.8), ("c", "unlike", 0.03)]
        rows = paste(7, "place", *own)
        sentence = (
            "Pasted onto 2 pictures of other classes, what these maps mark takes the probability "
            "of saw from 1 % to 60 %; what the least alike maps of saw mark takes it to 3 %."
        )
        assert what_becomes(rows, "net", "saw", "place") == sentence
        paste(1, "", ("d", "usual", 0.1), ("e", "usual", 0.3))
        paste(2, "", ("f", "usual", 0.04))
        rows = paste(3, "", ("g", "usual", 0.9))  # means of 20, 4 and 90 %
    also = (
        " The same done with 3 other classes takes theirs from 1 % to 20 % (median), so what is "
        "marked here decides more than is usual."
    )
    assert what_becomes(rows, "net", "saw", "place") == sentence + also
    rows[-1]["alike"] = 30.0  # a rise of 29 points, which is less than twice the usual 19
    assert "so this is usual" in what_becomes(rows, "net", "saw", "place")
    assert what_becomes(rows, "net", "saw", "look") == ""
    assert what_becomes(rows, "other", "saw", "place") == ""


def test_a_class_is_named_that_changed_pictures_become() -> None:
    with no_pastes() as db:
        set_variables(db, {"dataset": "d", "backbones": ["net", "other"]})
        for backbone, change, target, afters in (
            ("net", "jpeg", 7, (0.3, 0.5)),  # a mean rise of 39 points
            ("net", "blur", 7, (0.2, 0.3)),  # 24 points
            ("net", "warm", 7, (0.1, 0.2)),  # 14 points
            ("other", "cold", 7, (0.15, 0.2)),  # 16.5 points
            ("other", "jpeg", 2, (0.1, 0.2)),  # 14 points
            ("elsewhere", "jpeg", 2, (0.9, 0.9)),  # not of this audit
        ):
            for key, before, after in zip("xy", (0.0, 0.02), afters, strict=True):
                row = ("d", backbone, target, "whole", change, "", key, before, after)
                db.execute(ADDED, [*row, None, None])
        row, light = db.sql(sql_text("changed")).to_arrow_table().to_pylist()
        assert db.sql(sql_text("pasted")).fetchall() == []
    assert (light["backbone"], light["change"], light["elsewhere"]) == ("other", "cold", None)
    assert what_change_does(row) == (
        "Encoded as a JPEG of quality 15, 2 pictures of other classes take the probability of saw "
        "from 1 % to 40 %. With other classifiers the same raises that of any class by "
        "14 points at most."
    )


def test_a_preprocessing_is_doubted_where_labels_are_clearly_more_probable_in_another() -> None:
    chance = np.random.default_rng(0)
    with no_pastes() as db:
        set_variables(db, {"dataset": "d", "backbones": ["wrong", "right", "little", "noisy"]})
        for backbone, rise, spread in (
            ("wrong", 0.1, 0.01),
            ("right", -0.1, 0.01),
            ("little", 0.019, 0.001),
            ("noisy", 0.1, 0.5),
            ("elsewhere", 0.1, 0.01),  # not of this audit
        ):
            for way, share in (("unit", 0.5), ("swapped", 1.0)):
                for number, noise in enumerate(spread * chance.permutation(np.linspace(-1, 1, 50))):
                    after = 0.5 + share * rise + noise
                    row = ("d", backbone, 7, "normalised", way, "", str(number), 0.5, after)
                    right = (number < 20, number < 20 + 10 * share)
                    db.execute(ADDED, [*row, *right])
        found = db.sql(sql_text("normalised")).to_arrow_table().to_pylist()
        assert db.sql(sql_text("pasted")).fetchall() == []
        assert db.sql(sql_text("changed")).fetchall() == []
    assert [row["backbone"] for row in found] == ["little", "noisy", "right", "wrong"]
    assert [row["way"] for row in found] == [None, None, None, "swapped"]
    assert found[-1]["after"] == pytest.approx(60)
    assert [found[-1][name] for name in ("right_before", "right_after")] == [40, 60]
    assert found[0]["right_after"] is None
    assert all(row["before"] == pytest.approx(50) for row in found)
    assert {row["pictures"] for row in found} == {50}


def test_the_report_names_and_shows_a_class_without_boxes(
    drawn: tuple[Lake, str], tmp_path: Path
) -> None:
    lake, audit = known_lake(drawn[0], tmp_path / "lake", without=["boxes"])
    own = audit.model_dump(mode="json")
    own["evaluation"]["metrics"] = ["confidence", "shape", "marked"]
    audit = complete(AuditSpec.model_validate(own))
    chance = np.random.default_rng(0)
    for explainer in ("ttame", "gradcam", "random"):
        place = ("drawn", "net", explainer, SHARD)
        path = f"maps/dataset=drawn/backbone=net/explainer={explainer}/{SHARD}.parquet"
        rows = []
        for i, row in enumerate(lake.read_table(path).to_pylist()):
            where, look = chance.uniform(size=49), chance.normal(size=343)
            where[:5] += 40 * (i % 2 == 0)  # the maps of one of two classes mark one place
            marked = {"place": (where / where.sum()).tolist(), "look": look.tolist()}
            known = {name: row[name] for name in ("key", "label")}
            rows.append({**known, "predicted": i % 2, "target": i % 2, **marked})
        lake.write_parquet(scores_file("marked", *place), rows, schema_of("marked"), {})
    pastes = [
        {"target": target, "aspect": "place", "source": "a", "maps": maps, "key": "b"}
        | {"before": 0.01, "after": 0.62 if maps == "alike" else 0.03}
        for target in range(10)
        for maps in ("alike", "unlike")
    ]
    pastes += [
        {"target": 3, "aspect": "whole", "source": change, "maps": "", "key": key}
        | {"before": 0.02, "after": after}
        for change, after in (("cold", 0.4), ("jpeg", 0.8), ("dark", 0.16))
        for key in "ab"
    ]
    lake.write_parquet(pasted_file("drawn", "net"), pastes, PASTED, {})
    folder = write_record(lake, audit, Outcome({}, datetime(2026, 3, 1, tzinfo=UTC)), render)
    answers = read_answers(lake, folder)
    words = [line.words for answer in answers for line in answer.lines]
    assert any(
        w.startswith("net: the maps of ") and "the same place, most of all the upper left" in w
        for w in words
    )
    assert any("Pasted onto 1 picture of other classes" in w and "1 % to 62 %" in w for w in words)
    assert not any("Shortcuts were not looked for" in w for w in words)
    turned = "Encoded as a JPEG of quality 15, 2 pictures of other classes take the probability of"
    assert [w.split("from")[1] for w in words if f"net: {turned}" in w] == [
        " 2 % to 80 %. Also, but less: in colder light."
    ]
    assert not any("Darker" in w for w in words)
    page = Path(lake.path(folder), "report.html").read_text()
    assert '<section id="shortcuts">' in page
    assert "mark the same place" in page
    assert "to 62\u00a0%" in page  # a line does not end between a number and its unit
    assert "annotated box" not in page
    assert page.count("Pasted onto 1 picture of other classes") >= 2  # on top, and by the pictures
    assert page.count(turned) >= 2
    assert "other pictures, encoded as a JPEG of quality 15, are taken for it" in page
    images = Path(lake.path(folder), "images.html").read_text()
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', images)
    rows = json.loads(data)["rows"]
    suspected = {(row["backbone"], row["predicted"]) for row in rows if row["suspected"]}
    assert {backbone for backbone, _ in suspected} == {"net"}
    others = {(row["backbone"], row["predicted"]) for row in rows if not row["suspected"]}
    assert others
    assert not others & suspected
