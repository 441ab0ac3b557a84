"""Bootstrap intervals in SQL: they cover what they should, and small things do not break them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import connect, leaderboard, run_query
from ttame_core.lake.query.directions import direction
from ttame_core.lake.query.metric_values import IDENTITY, SETTINGS


def write_costs(lake: Lake, explainer: str, values: np.ndarray, backbone: str = "net") -> None:
    """The values as `seconds` of one explainer, an image each."""
    rows = [
        {"key": f"k{i}", "label": 0, "predicted": 0, "target": 0, "seconds": float(value)}
        for i, value in enumerate(values)
    ]
    path = scores_file("cost", "d", backbone, explainer, "test-000000")
    lake.write_parquet(path, rows, schema_of("cost"), "x")


def _board(lake: Lake) -> dict[str, dict]:
    return {r["explainer"]: r for r in leaderboard(lake).to_pylist() if r["metric"] == "seconds"}


def test_a_replicate_counts_groups_independently_a_poisson_number_of_times(tmp_path: Path) -> None:
    with connect(Lake(tmp_path)) as db:
        weights = np.array([w for (w,) in db.sql("SELECT weights FROM bootstrap").fetchall()])
    assert weights.shape == (256, 256)
    counts = np.bincount(weights.astype(int).ravel(), minlength=7) / weights.size
    assert np.allclose(counts[:6], stats.poisson(1).pmf(range(6)), atol=0.005)
    for table in (weights, weights.T):
        off_diagonal = (np.corrcoef(table) - np.eye(len(table))) ** 2
        assert np.sqrt(off_diagonal.mean()) < 1.1 / np.sqrt(table.shape[1])


@pytest.mark.parametrize("images", [100, 2000])
def test_intervals_cover_the_truth_as_often_as_they_say(tmp_path: Path, images: int) -> None:
    lake, rng, trials = Lake(tmp_path), np.random.default_rng(0), 200
    for trial in range(trials):
        write_costs(lake, f"e{trial}", rng.exponential(size=images))
    board = _board(lake).values()
    covered = np.mean([row["ci_low"] <= 1 <= row["ci_high"] for row in board])
    # 95 %, less what 256 groups and a skewed mean cost, within the sampling error of the trials
    assert 0.90 <= covered <= 0.985
    widths = np.mean([row["ci_high"] - row["ci_low"] for row in board])
    assert widths == pytest.approx(2 * 1.96 / np.sqrt(images), rel=0.06)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_few_images_give_values(tmp_path: Path, images: int) -> None:
    lake = Lake(tmp_path)
    values = np.arange(1.0, 1 + images)
    write_costs(lake, "e", values)
    row = _board(lake)["e"]
    assert row["value"] == pytest.approx(values.mean())
    assert row["images"] == images
    assert 1 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= images


def test_equal_values_have_an_interval_without_width_and_answers_do_not_change(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path)
    write_costs(lake, "equal", np.full(300, 0.5))
    write_costs(lake, "other", np.random.default_rng(0).random(300))
    row = _board(lake)["equal"]
    assert row["value"] == row["ci_low"] == row["ci_high"] == 0.5
    assert leaderboard(lake).equals(leaderboard(lake))


def test_a_metric_is_one_select_whatever_its_shape(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    rows = [
        {"key": "k", "label": 0, "predicted": 0, "target": 0, "keep": keep, "fill": fill}
        | {"p": 0.8, "p_masked": 0.4}
        for keep in (12.5, 50)
        for fill in ("zero", "blur")
    ]
    path = scores_file("confidence", "d", "net", "e", "test-000000")
    lake.write_parquet(path, rows, schema_of("confidence"), "x")
    names = {r["metric"] for r in run_query(lake, "FROM metric_values").to_pylist()}
    assert names == {
        f"{metric}@{keep}{fill}"
        for metric in ("AD", "IC", "AG")
        for keep in ("12.5", "50")
        for fill in ("", "/blur")
    }
    assert {r["metric"] for r in leaderboard(lake).to_pylist()} == names


def test_ranks_know_directions_and_leave_yardsticks_and_unknown_metrics_out(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path)
    for explainer, seconds in (("quick", 1.0), ("slow", 3.0), ("twin", 3.0), ("random", 0.1)):
        write_costs(lake, explainer, np.full(3, seconds))
    for explainer, p_masked in (("quick", 0.4), ("slow", 0.7), ("random", 0.79)):
        row = {"key": "k", "label": 0, "predicted": 0, "target": 0, "keep": 15.0, "fill": "zero"}
        path = scores_file("confidence", "d", "net", explainer, "test-000000")
        rows = [row | {"p": 0.8, "p_masked": p_masked}]
        lake.write_parquet(path, rows, schema_of("confidence"), "x")
    ranks = run_query(lake, "FROM ranks").to_pylist()
    found = {(r["explainer"], r["family"]): r["mean_rank"] for r in ranks}
    assert {e for e, _ in found} == {"quick", "slow", "twin"}
    assert [found[e, "cost"] for e in ("quick", "slow", "twin")] == [1, 2.5, 2.5]
    assert found["slow", "all"] == pytest.approx((1 + 1.5 + 1.5) / 3)  # AD; IC and AG are equal


def test_a_metric_without_a_direction_has_no_ranks(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for explainer, seconds in (("quick", 1.0), ("slow", 3.0)):
        write_costs(lake, explainer, np.full(3, seconds))
    with connect(lake) as db:
        assert {row[0] for row in db.sql("SELECT family FROM ranks").fetchall()} == {"cost"}
        db.execute("UPDATE metrics SET lower_is_better = NULL WHERE pattern = 'seconds'")
        assert db.sql("SELECT family FROM ranks").fetchall() == []


def test_the_random_label_check_is_the_correlation_with_the_permuted_heads_maps(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path)
    unit = np.eye(196, dtype=np.float32)
    shape = {"complexity": 0.5, "sparseness": 0.5}
    for explainer, thumbnails in (
        ("ttame", (unit[0], unit[1])),
        ("ttame-permuted", (unit[0], (unit[1] + unit[2]) / np.sqrt(2))),
        ("rise", (unit[0], unit[1])),
    ):
        path = scores_file("shape", "d", "net", explainer, "test-000000")
        identity = {"label": 0, "predicted": 0, "target": 0}
        rows = [
            {"key": str(i), **identity, **shape, "thumbnail": thumbnail.tolist()}
            for i, thumbnail in enumerate(thumbnails)
        ]
        lake.write_parquet(path, rows, schema_of("shape"), "x")
    checked = "SELECT explainer, value FROM leaderboard WHERE metric = 'sanity_labels'"
    found = run_query(lake, checked).to_pylist()
    assert found == [{"explainer": "ttame", "value": pytest.approx((1 + 0.5**0.5) / 2)}]
    ranked = run_query(lake, "SELECT DISTINCT explainer FROM ranks").to_pylist()
    assert {row["explainer"] for row in ranked} == {"ttame", "rise"}


def test_directions_of_sql_and_of_python_are_the_same_and_disjoint(tmp_path: Path) -> None:
    names = ("AD@15", "AD@15/blur", "ADCC", "iou@0.5", "box_iou", "sanity_ssim", "seconds", "new")
    with connect(Lake(tmp_path)) as db:
        for name in names:
            found = db.execute(
                "SELECT family, lower_is_better, unit FROM metrics WHERE ? GLOB pattern", [name]
            ).fetchall()
            about = direction(name)
            expected = [(about.family, about.lower_is_better, about.unit)] if about.family else []
            assert found == expected
    assert direction("AD@15").lower_is_better
    assert direction("new").lower_is_better is None


def test_every_metric_has_one_direction(tmp_path: Path) -> None:
    with connect(Lake(tmp_path)) as db:
        views = db.sql("SELECT view_name FROM duckdb_views() WHERE view_name GLOB 'values_*'")
        names = {
            column + ("@1" if "level" in columns else "")
            for (view,) in views.fetchall()
            for columns in [db.sql(f"FROM {view} LIMIT 0").columns]
            for column in columns
            if column not in (*IDENTITY, *SETTINGS, "value")
        }
        assert {"AD@1", "accuracy", "seconds", "max_box_acc_v2"} <= names
        for name in (*names, "insertion", "deletion/blur"):
            found = db.execute("SELECT * FROM metrics WHERE ? GLOB pattern", [name]).fetchall()
            assert len(found) == 1, name


def test_disagreement_is_the_correlation_of_thumbnails(tmp_path: Path) -> None:
    lake, rng = Lake(tmp_path), np.random.default_rng(0)
    maps = {name: rng.random((2, 196)) for name in ("a", "b")}
    for name, arrays in maps.items():
        rows = []
        for i, array in enumerate(arrays):
            centred = array - array.mean()
            row = {"key": f"k{i}", "label": 0, "predicted": 0, "target": 0}
            rows.append(row | {"thumbnail": centred / np.linalg.norm(centred)})
        path = scores_file("shape", "d", "net", name, "test-000000")
        lake.write_parquet(path, rows, schema_of("shape"), "x")
    found = run_query(lake, "FROM disagreement ORDER BY key").to_pylist()
    assert [(r["key"], r["explainer_a"], r["explainer_b"]) for r in found] == [
        ("k0", "a", "b"),
        ("k1", "a", "b"),
    ]
    for row, one, other in zip(found, maps["a"], maps["b"], strict=True):
        assert row["correlation"] == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-6)
