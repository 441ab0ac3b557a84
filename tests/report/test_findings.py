"""What a report is made of, against values known by construction."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from known import KEPT, known_lake, names_of

from ttame_core import spec
from ttame_core.audits.record import Outcome, audit_board, write_record
from ttame_core.audits.recorded import connect_audit, list_recorded, own_values
from ttame_core.lake import Lake, classes_file
from ttame_core.lake.query.connection import connect, run_query
from ttame_core.lake.query.variables import set_variables
from ttame_core.lake.schemas import maps_schema
from ttame_core.report.album import exhibits
from ttame_core.report.findings import (
    Findings,
    certain_winners,
    gather,
    sql_text,
    what_is_confused,
    why_small,
)
from ttame_core.report.rendering import read_answers, render

Known = tuple[Lake, spec.AuditSpec]
NOW = "20260301T000000Z"


@pytest.fixture(scope="module")
def found(known: Known) -> Findings:
    lake, audit = known
    with connect_audit(lake, audit) as db:
        return gather(db, audit, audit_board(lake, audit), NOW)


def test_curves_are_means_over_images(found: Findings) -> None:
    by = {
        (r["backbone"], r["explainer"], r["order"], r["removed"]): r
        for r in found.series["removal"]
    }
    assert len(by) == 2 * 4 * 2 * 3
    row = by["net", "gradcam", "MoRF", 50.0]
    assert row["value"] == pytest.approx(100 * (0.8 - 0.008 * 50 * KEPT["gradcam"]), abs=1e-4)
    assert row["half"] == pytest.approx(0, abs=1e-3)
    assert row["images"] == 12
    steps = [
        (r["moved"], r["value"])
        for r in found.series["steps"]
        if (r["backbone"], r["explainer"], r["curve"]) == ("net", "ttame", "insertion")
    ]
    assert steps == [(25.0 * i, pytest.approx(20.0 * i, abs=1e-4)) for i in range(5)]


def test_training_is_thinned_and_sizes_are_split(known: Known, found: Findings) -> None:
    training = found.series["training"]
    assert {(r["step"], r["value"]) for r in training if r["metric"] == "AD@15"} == {
        (10, 40.0),
        (20, 30.0),
    }
    assert len([r for r in training if r["metric"] == "loss"]) == 20
    sizes = {
        (r["backbone"], r["metric"], r["size"]): r
        for r in found.series["sizes"]
        if r["explainer"] == "ttame"
    }
    assert sizes["net", "pointing_game", "medium"]["images"] == 6
    assert sizes["net", "pointing_game", "small"]["value"] == pytest.approx(100 * 5 / 6)
    lake, audit = known
    view = run_query(
        lake,
        "SELECT backbone, explainer, metric, size, value, images FROM by_object_size "
        f"WHERE metric IN ('pointing_game', 'energy_in_box') AND dataset = '{audit.dataset.name}'",
    )
    explainers = {e.name for e in audit.explainers}
    expected = {tuple(r.values())[:4]: r for r in view.to_pylist() if r["explainer"] in explainers}
    assert {tuple(r.values())[:4] for r in found.series["sizes"]} == expected.keys()
    for row in found.series["sizes"]:
        assert row == pytest.approx(expected[tuple(row.values())[:4]])


def test_images_worth_seeing_are_ranked(known: Known, found: Findings) -> None:
    keys = [key for key, _ in names_of(known[0])]
    outside = found.of("outside")
    assert [(r["backbone"], r["key"]) for r in outside] == [("net", keys[0]), ("net", keys[1])]
    assert [round(r["value"]) for r in outside] == [0, 10]
    assert {(r["outside"], r["explainers"], r["images"]) for r in outside} == {(2, 2, 2)}
    (wrong,) = found.of("wrong")
    assert (wrong["backbone"], wrong["key"], wrong["sure"]) == ("net", keys[11], 0)
    best = [r["key"] for r in found.of("best") if r["backbone"] == "net"]
    worst = [r["key"] for r in found.of("worst") if r["backbone"] == "net"]
    assert (best, worst) == (keys[:3], keys[:-4:-1])
    typical = [keys.index(r["key"]) for r in found.of("typical") if r["backbone"] == "net"]
    assert {5, 6} <= set(typical)
    assert len(found.of("disputed")) == 6
    assert found.leads == {"net": "ttame", "other": "ttame"}
    assert found.keep == 15


def test_classes_that_are_taken_for_another_are_named() -> None:
    images = {  # (label, predicted): number of images
        **{(0, 10): 4, (0, 0): 1},  # fewer than 5
        **{(1, 2): 6, (1, 1): 14, (2, 1): 1, (2, 2): 9},  # 30 % and 10 %: not less than a third
        **{(3, 4): 8, (3, 3): 12, (4, 3): 1, (4, 4): 9},  # 40 % and 10 %
        **{(5, 6): 5, (5, 5): 16},  # less than a quarter
        **{(7, 8): 9, (7, 7): 3},  # three in four, and no image of class 8
        **{(11, 12): 5, (11, 11): 2},  # less than three in four
        **{(13, 14): 8, (13, 13): 2, (14, 13): 7, (14, 14): 3},  # 80 % and 70 %
        **{(15, 0): 5, (15, 15): 4, (16, 0): 5, (16, 16): 8},  # 56 % and 38 %
    }
    with duckdb.connect() as db:
        db.execute(
            "CREATE TABLE predicted_numbers (dataset TEXT, backbone TEXT, key TEXT, label INT, "
            "predicted INT)"
        )
        db.execute("CREATE TABLE classes (dataset TEXT, backbone TEXT, number INT, name TEXT)")
        db.execute("INSERT INTO classes VALUES ('d', 'net', 3, 'saw'), ('d', 'net', 4, 'axe')")
        db.execute("CREATE MACRO class_name(number, name) AS coalesce(name, 'class ' || number)")
        for (label, predicted), number in images.items():
            insert = "INSERT INTO predicted_numbers SELECT 'd', ?, range, ?, ? FROM range(?)"
            db.execute(insert, ["net", label, predicted, number])
            db.execute(insert, ["elsewhere", label, predicted, number])
        set_variables(db, {"dataset": "d", "backbones": ["net"]})
        rows = db.sql(sql_text("confused")).to_arrow_table().to_pylist()
    assert {row["backbone"] for row in rows} == {"net"}
    found = [(r["class"], r["other"], r["taken"], r["back"], r["sign"]) for r in rows]
    assert found == [
        ("class 13", "class 14", 8, 7, "swapped"),
        ("class 7", "class 8", 9, 0, "nowhere"),
        ("class 11", "class 12", 5, 0, None),
        ("class 14", "class 13", 7, 8, "swapped"),
        ("class 15", "class 0", 5, 0, None),  # class 16 is taken for class 0 nearly as often
        ("saw", "axe", 8, 1, "one-sided"),
        ("class 16", "class 0", 5, 0, None),
        ("class 1", "class 2", 6, 1, None),
    ]
    assert {row["pairs"] for row in rows} == {8}
    words = [what_is_confused(row) for row in rows]
    assert words[0] == (
        "8 of 10 images of class 13 are taken for class 14, and 7 of 10 of class 14 for class 13: "
        "the names of the two may be swapped."
    )
    assert words[1] == (
        "9 of 12 images of class 7 are taken for class 8, of which there is no image: the label "
        "class 7 may mean another class than it was matched with."
    )
    assert words[2].endswith("are taken for class 12, of which there is no image.")
    assert words[5] == (
        "8 of 20 images of saw are taken for axe, and 1 of 10 of axe for saw: in the training, "
        "images of saw may be labelled axe, be few, or look different."
    )
    assert words[7].endswith("and 1 of 10 of class 2 for class 1.")


def test_the_page_says_which_classes_are_taken_for_another(
    drawn: tuple[Lake, str], tmp_path: Path
) -> None:
    lake, audit = known_lake(drawn[0], tmp_path / "lake")
    for path in lake.glob("maps/dataset=drawn/backbone=net/*/*.parquet"):
        rows = lake.read_table(path).to_pylist()
        for number, row in enumerate(rows):  # five of six images of class 0 are taken for class 1
            label, predicted = int(number > 5), int(number > 0)
            row |= {"label": label, "predicted": predicted, "target": predicted}
        seen = lake.metadata(path)["preprocessing"]
        lake.write_parquet(path, rows, maps_schema(4, 4), {}, preprocessing=seen)
    folder = write_record(lake, audit, Outcome({}, datetime(2026, 3, 1, tzinfo=UTC)), render)
    names = {
        row["number"]: row["name"]
        for row in lake.read_table(classes_file("drawn", "net")).to_pylist()
    }
    expected = f"net: 5 of 6 images of {names[0]} are taken for {names[1]}, and 0 of 6 of"
    lines = [line for answer in read_answers(lake, folder) for line in answer.lines]
    assert [line.link for line in lines if line.words.startswith(expected)] == ["wrong"]
    page = Path(lake.path(folder), "report.html").read_text()
    assert '<caption id="confused">' in page


def test_right_predictions_come_first_of_those_outside() -> None:
    """Of six images with two maps each, the last has one inside, and the first two are wrong."""
    with duckdb.connect() as db:
        db.execute(
            "CREATE TABLE predicted_numbers AS SELECT 'd' AS dataset, 'net' AS backbone, "
            "'k' || i AS key, 0 AS label, (i < 2)::INT AS predicted FROM range(6) AS _(i)"
        )
        db.execute(
            "CREATE TABLE localization AS SELECT dataset, backbone, key, explainer, predicted, "
            "predicted AS target, key = 'k5' AND explainer = 'a' AS pointing_game, "
            "key[2]::INT / 10 AS energy_in_box FROM predicted_numbers, "
            "(VALUES ('a'), ('b'), ('c')) AS _(explainer)"
        )
        set_variables(db, {"dataset": "d", "backbones": ["net"], "rivals": ["a", "b"]})
        found = db.sql(sql_text("outside")).to_arrow_table().to_pylist()
    assert [row["key"] for row in found] == ["k2", "k3", "k4", "k0", "k1"]
    assert {(row["images"], row["wrong"], row["outside"]) for row in found} == {(5, 2, 2)}


def test_every_query_runs_alone(known: Known, found: Findings) -> None:
    for name, sql in found.sql.items():
        assert "getvariable" not in sql
        rows = run_query(known[0], sql)
        assert rows.num_rows > 0 or name in ("alike", "pasted", "changed", "confused"), (
            name
        )  # the family marked was not measured, and one prediction is wrong
    assert run_query(known[0], found.sql["outside"]).to_pylist() == found.of("outside")


def test_the_best_is_certain_where_pairs_say_so(
    known: Known, report: Path, found: Findings
) -> None:
    lake, audit = known
    board = audit_board(lake, audit)
    with connect_audit(lake, audit) as db, own_values(db, lake, f"known/{report.parent.name}"):
        winners = certain_winners(db, board)
    assert winners["AD@15"]["net"].apart
    assert winners["AD@15"]["net"].value == "23.5"  # 1 - 0.9 · 0.9 · mean of 1 … 0.89
    assert not winners["pointing_game"]["net"].apart  # equal
    assert "random" not in found.order


def test_small_trust_may_be_for_maps_that_do_not_stay() -> None:
    row = {"backbone": "net", "images": 1200, "usual": 12.1, "keeps": 60.0, "stays": 13.0}
    words = why_small(row, "ttame", 15.0, 95.0)
    assert "Half of the 1,200 trust numbers of net with maps of ttame are 13 or less" in words
    assert "keep 60 % of the confidence, and 13 % of the map stays when the image hardly" in words
    assert why_small(row | {"usual": 25.0}, "ttame", 15.0, 95.0) == ""


def test_exhibits_know_their_boxes_and_scores(known: Known, found: Findings) -> None:
    lake, _ = known
    with connect(lake) as db:
        shown = exhibits(lake, db, "drawn", found, "nowhere")
    first = shown["outside"][0]
    assert [m.explainer for m in first.maps] == ["ttame", "gradcam"]
    assert first.maps[0].left == pytest.approx(0.8 * 0.9 * 0.9)
    assert first.maps[0].energy == pytest.approx(0)
    assert first.right
    assert not shown["wrong"][0].right
    for x0, y0, x1, y1 in first.boxes:
        assert 0 <= x0 < x1 <= 100
        assert 0 <= y0 < y1 <= 100


def test_many_pictures_lie_beside_the_page(
    known: Known, found: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, _ = known
    monkeypatch.setattr("ttame_core.report.album.INSIDE", 10)
    with connect(lake) as db:
        shown = exhibits(lake, db, "drawn", found, "audits/elsewhere/now")
    name = shown["outside"][0].maps[0].src
    assert name.startswith("pictures/")
    assert lake.exists(f"audits/elsewhere/now/{name}")


def test_an_empty_lake_has_nothing_to_say(tmp_path: object, known: Known) -> None:
    lake = Lake(tmp_path)
    with connect_audit(lake, known[1]) as db:
        empty = gather(db, known[1], audit_board(lake, known[1]), NOW)
    assert not empty.exhibits
    assert not any(empty.series.values())
    assert (empty.keep, empty.images) == (None, 0)


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_the_images_with_the_lowest_hash_are_recorded(most: int) -> None:
    for images in (0, 1, 2, 101, 102, 103, 107, 2100, 2101, 5000):
        keys = [f"image-{number}" for number in range(images)]
        with duckdb.connect() as db:
            db.execute("CREATE TABLE samples (dataset VARCHAR, split VARCHAR, key VARCHAR)")
            db.execute("INSERT INTO samples SELECT 'd', 'test', unnest($1::VARCHAR[])", [keys])
            db.execute("INSERT INTO samples VALUES ('d', 'val', 'other'), ('e', 'test', 'other')")
            list_recorded(db, "d", "test", most)
            found = [key for (key,) in db.sql("FROM recorded").fetchall()]
        by_hash = sorted(keys, key=lambda key: hashlib.md5(key.encode()).hexdigest())
        assert sorted(found) == sorted(by_hash[:most])
