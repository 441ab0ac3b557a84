"""SQL that chooses thresholds and splits by object size, over a hand-made lake, against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics import THRESHOLDS

COUNT = 30
LISTS = ("pixel_iou", "box_iou")
TESTS = [f"{which}_found_{overlap}" for which in ("largest", "best") for overlap in (30, 50, 70)]


@pytest.fixture
def located(tmp_path: Path) -> tuple[Lake, dict[str, list[dict[str, Any]]]]:
    """A lake, and its rows of localization by explainer."""
    lake = Lake(tmp_path)
    rng = np.random.default_rng(0)
    rows: dict[str, list[dict[str, Any]]] = {"ttame": [], "gradcam": []}
    for explainer, shift in (("ttame", 0.1), ("gradcam", 0)):
        for i in range(COUNT):
            for target in (0, 1):  # only the first is the model truth
                row = {"key": f"k{i:02d}", "label": 0, "predicted": 0, "target": target}
                row |= {"object_share": (i % 10) / 20, "pointing_game": bool(i % 3)}
                row |= {"energy_in_box": float(np.float32(rng.random()))}
                masked = i % 2
                for name in ("weighting_game", "average_precision"):
                    row[name] = float(np.float32(rng.random())) if masked else None
                for name in LISTS:
                    row[name] = (shift + 0.9 * rng.random(19, dtype=np.float32)).tolist()
                for name in TESTS:
                    ends = rng.choice(256, size=2 * rng.integers(4), replace=False)
                    row[name] = sorted(ends.tolist())
                rows[explainer].append(row)
        path = scores_file("localization", "d", "b", explainer, "test-000000")
        lake.write_parquet(path, rows[explainer], schema_of("localization"), "x")
    return lake, {e: [r for r in found if r["target"] == 0] for e, found in rows.items()}


def test_thresholds_are_the_best_of_each_explainer(located) -> None:
    lake, rows = located
    board = run_query(lake, "SELECT explainer, metric, value, images FROM leaderboard").to_pylist()
    values = {(row["explainer"], row["metric"]): row for row in board}
    assert THRESHOLDS[3] == 0.2
    assert THRESHOLDS[9] == 0.5
    for explainer, chosen in rows.items():
        curves = {name: np.array([row[name] for row in chosen]) for name in LISTS}
        expected = {}
        for name in ("pixel_iou", "box_iou"):
            means = curves[name].mean(axis=0)
            expected |= {name: means.max(), f"{name}@0.2": means[3], f"{name}@0.5": means[9]}
        most = {name: max(_found(chosen, name, level) for level in range(255)) for name in TESTS}
        for overlap in (30, 50, 70):
            expected[f"max_box_acc@{overlap / 100}"] = most[f"largest_found_{overlap}"]
        expected["max_box_acc_v2"] = np.mean([most[f"best_found_{o}"] for o in (30, 50, 70)])
        expected["pointing_game"] = np.mean([row["pointing_game"] for row in chosen])
        for metric, value in expected.items():
            found = values[explainer, metric]
            assert found["value"] == pytest.approx(100 * value), metric
            assert found["images"] == COUNT
        for metric in ("weighting_game", "average_precision"):  # where there are masks
            found = values[explainer, metric]
            given = [row[metric] for row in chosen if row[metric] is not None]
            assert found["value"] == pytest.approx(100 * np.mean(given))
            assert found["images"] == COUNT // 2


def _found(rows: list[dict[str, Any]], name: str, level: int) -> float:
    """The share of images that have the level in one of their runs."""
    runs = [zip(row[name][::2], row[name][1::2], strict=True) for row in rows]
    return np.mean([any(start <= level < end for start, end in of_image) for of_image in runs])


def test_every_metric_by_object_size(located) -> None:
    lake, rows = located
    found = run_query(
        lake,
        "SELECT size, value, images FROM by_object_size "
        "WHERE explainer = 'ttame' AND metric = 'energy_in_box'",
    ).to_pylist()
    assert {row["size"]: row["images"] for row in found} == {"small": 6, "medium": 12, "large": 12}
    for row in found:
        low, high = {"small": (0, 0.1), "medium": (0.1, 0.3), "large": (0.3, 1)}[row["size"]]
        chosen = [
            r["energy_in_box"] for r in rows["ttame"] if low <= np.float32(r["object_share"]) < high
        ]
        assert row["value"] == pytest.approx(100 * np.mean(chosen))


def test_what_is_null_has_no_metric(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    row = {"key": "k", "label": 0, "predicted": 0, "target": 0, "pointing_game": True}
    path = scores_file("localization", "d", "b", "ttame", "test-000000")
    row |= {"box_iou": [0.5] * 19, "largest_found_50": [7, 9], "largest_found_70": []}
    lake.write_parquet(path, [row], schema_of("localization"), "x")
    board = run_query(lake, "SELECT metric, value FROM leaderboard").to_pylist()
    metrics = {row["metric"]: row["value"] for row in board}
    assert metrics["pointing_game"] == 100
    assert metrics["max_box_acc@0.5"] == 100
    assert metrics["max_box_acc@0.7"] == 0
    assert not {"max_box_acc@0.3", "max_box_acc_v2"} & set(metrics)
    assert "pixel_iou" not in metrics
