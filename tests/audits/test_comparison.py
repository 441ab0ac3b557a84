"""Paired comparisons: against scipy, over audits, and with names that are not there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from ttame_core import spec
from ttame_core.audits.comparison import compare
from ttame_core.audits.record import Outcome, write_record
from ttame_core.audits.statistics import holm, wilcoxon
from ttame_core.errors import UserError
from ttame_core.lake import Lake, maps_file, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import run_query
from ttame_core.lake.schemas import AUDIT_VALUES, INDEX, LEADERBOARD, maps_schema
from ttame_core.report.tables import comparison_table

IMAGES = 60


def _score(lake: Lake, backbone: str, explainer: str, seconds: np.ndarray) -> None:
    about = [
        {"key": f"k{i:02d}", "label": i % 2, "predicted": 0, "target": 0}
        for i in range(len(seconds))
    ]
    where = ("d", backbone, explainer, "test-000000")
    costs = [
        row | {"seconds": float(s), "forward_passes": 1.0}
        for row, s in zip(about, seconds, strict=True)
    ]
    lake.write_parquet(scores_file("cost", *where), costs, schema_of("cost"), "x")
    heat = {"probability": 0.5, "height": 1, "width": 1, "map": np.zeros(1, dtype=np.float16)}
    maps = [row | heat for row in about]
    lake.write_parquet(maps_file(*where), maps, maps_schema(1, 1), "x")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake, rng = Lake(tmp_path), np.random.default_rng(0)
    base = rng.random(IMAGES)
    _score(lake, "net", "quick", base)
    _score(lake, "net", "slow", base + 0.5 + 0.1 * rng.random(IMAGES))
    _score(lake, "net", "same", base[:40])
    _score(lake, "vit", "quick", base + 0.01 * rng.standard_normal(IMAGES))
    return lake


def _seconds(lake: Lake, explainer: str, backbone: str = "net") -> np.ndarray:
    path = scores_file("cost", "d", backbone, explainer, "test-000000")
    return lake.read_table(path)["seconds"].to_numpy().astype(float)


def test_two_explainers_against_scipy(lake: Lake) -> None:
    found = compare(lake, "quick", "slow")
    assert found.kind == "explainer"
    row = next(r for r in found.rows.to_pylist() if r["metric"] == "seconds")
    difference = _seconds(lake, "quick") - _seconds(lake, "slow")
    assert row["backbone"] == "net"  # the only one that both have
    assert row["pairs"] == IMAGES
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["p"] == pytest.approx(stats.wilcoxon(difference).pvalue)
    reference = stats.bootstrap((difference,), np.mean, rng=0).confidence_interval
    assert row["ci_low"] == pytest.approx(reference.low, abs=0.005)
    assert row["ci_high"] == pytest.approx(reference.high, abs=0.005)
    assert row["better"] == "quick"  # seconds are better low
    assert compare(lake, "slow", "quick").rows["better"].to_pylist().count("quick") == 1
    equal = next(r for r in found.rows.to_pylist() if r["metric"] == "forward_passes")
    assert (equal["difference"], equal["p"], equal["better"]) == (0, 1, None)
    assert compare(lake, "quick", "slow").rows.equals(found.rows)


def test_only_images_that_both_have_are_pairs(lake: Lake) -> None:
    rows = compare(lake, "quick", "same").rows.to_pylist()
    assert {r["pairs"] for r in rows} == {40}
    assert all(r["better"] is None and r["difference"] == 0 for r in rows)


def test_two_backbones_compare_their_accuracy_too(lake: Lake) -> None:
    rows = {(r["explainer"], r["metric"]): r for r in compare(lake, "net", "vit").rows.to_pylist()}
    assert ("-", "accuracy") in rows
    row = rows["quick", "seconds"]
    difference = _seconds(lake, "quick") - _seconds(lake, "quick", "vit")
    assert row["p"] == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert not any(explainer == "slow" for explainer, _ in rows)


def test_each_fill_and_each_baseline_is_a_metric_of_its_own(lake: Lake) -> None:
    """One is better with black surroundings and zeros, the other with blurred ones."""
    for explainer, plain, blurred in (("one", 0.2, 0.8), ("two", 0.4, 0.5)):
        where = ("d", "net", explainer, "test-000000")
        about = [
            {"key": f"k{i:02d}", "label": 0, "predicted": 0, "target": 0, "p": 1.0, "keep": 15.0}
            for i in range(IMAGES)
        ]
        confidence = [
            row | {"fill": fill, "p_masked": 1 - drop}
            for row in about
            for fill, drop in (("zero", plain), ("blur", blurred))
        ]
        lake.write_parquet(
            scores_file("confidence", *where), confidence, schema_of("confidence"), "x"
        )
        curves = [
            row | {"curve": "insertion", "fill": fill, "auc": auc, "probabilities": [auc]}
            for row in about
            for fill, auc in (("blur", plain), ("zero", blurred))
        ]
        names = schema_of("curves").names
        rows = [{name: row[name] for name in names} for row in curves]
        lake.write_parquet(scores_file("curves", *where), rows, schema_of("curves"), "x")
    board = {
        (explainer, metric): value
        for explainer, metric, value in run_query(
            lake, "SELECT explainer, metric, value FROM leaderboard"
        )
        .to_pandas()
        .itertuples(index=False)
    }
    rows = {r["metric"]: r for r in compare(lake, "one", "two").rows.to_pylist()}
    assert {"AD@15", "AD@15/blur", "insertion", "insertion/zero"} <= rows.keys()
    for metric, row in rows.items():
        assert row["pairs"] == IMAGES
        assert row["a"] == pytest.approx(board["one", metric], rel=1e-4)
        assert row["b"] == pytest.approx(board["two", metric], rel=1e-4)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_few_images(tmp_path: Path, images: int) -> None:
    lake = Lake(tmp_path)
    for name, seconds in (("a", np.ones(images)), ("b", np.arange(2.0, 2 + images))):
        _score(lake, "net", name, seconds)
    row = next(r for r in compare(lake, "a", "b").rows.to_pylist() if r["metric"] == "seconds")
    assert row["pairs"] == images
    assert row["ci_low"] <= row["difference"] <= row["ci_high"]
    assert row["better"] is None


@pytest.mark.parametrize("values", [2, 1000])  # with ties and zeros, and almost without
@pytest.mark.parametrize("pairs", [1, 2, 7, 13, 100, 400])
def test_wilcoxons_p_is_scipys(pairs: int, values: int) -> None:
    rng = np.random.default_rng(pairs)
    for shift in (0, values // 2):
        differences = rng.integers(-values, values + 1, pairs) + shift
        if differences.any():
            assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_wilcoxons_p_of_up_to_fifty_pairs_is_exact() -> None:
    rng = np.random.default_rng(0)
    for pairs in (20, 50):
        differences = rng.standard_normal(pairs) + 0.2
        assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)
    tied = np.repeat([1.0, -1.0], [16, 4])  # the sign test, as all ranks are equal
    assert wilcoxon(tied) == pytest.approx(stats.binomtest(4, 20).pvalue)
    assert wilcoxon(np.zeros(20)) == 1


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]


def _record(lake: Lake, time: str, shift: float) -> None:
    rows = [
        {"dataset": "d", "backbone": "net", "explainer": "quick", "metric": "seconds"}
        | {"key": f"k{i}", "value": i / 50 + shift * (1 + i / 100)}
        for i in range(50)
    ]
    lake.write_parquet(f"audits/zoo/{time}/values.parquet", rows, AUDIT_VALUES, "x")
    lake.write_json(f"audits/zoo/{time}/record.json", {"failures": {}})
    lake.write_parquet(f"audits/zoo/{time}/leaderboard.parquet", [], LEADERBOARD, "x")


def test_two_audits(lake: Lake) -> None:
    _record(lake, "20250101T000000Z", 0)
    with pytest.raises(UserError, match="one record only"):
        compare(lake, "zoo@latest", "zoo@previous")
    _record(lake, "20250201T000000Z", 1)
    lake.remove("audits/zoo/20250201T000000Z/leaderboard.parquet")  # as if killed before the last
    with pytest.raises(UserError, match="one record only"):
        compare(lake, "zoo@latest", "zoo@previous")
    _record(lake, "20250201T000000Z", 1)
    found = compare(lake, "zoo@latest", "zoo@previous")
    (row,) = found.rows.to_pylist()
    assert (found.a, found.b) == ("zoo/20250201T000000Z", "zoo/20250101T000000Z")
    assert row["difference"] == pytest.approx(1.245, abs=1e-3)
    assert row["better"] == "zoo/20250101T000000Z"
    assert compare(lake, "zoo/20250101T000000Z", "zoo@latest").rows["pairs"].to_pylist() == [50]
    with pytest.raises(UserError, match=r"the audit zo has no record.*zoo"):
        compare(lake, "zo@latest", "zoo@previous")


def test_names_that_are_not_there(lake: Lake) -> None:
    with pytest.raises(UserError, match=r"quik is no explainer.*Did you mean quick"):
        compare(lake, "quik", "slow")
    with pytest.raises(UserError, match="cannot be compared: name two explainers"):
        compare(lake, "quick", "net")
    with pytest.raises(UserError, match="with itself"):
        compare(lake, "quick", "quick")
    with pytest.raises(UserError, match="no image has scores of both"):
        compare(lake, "quick", "slow", "other")


def test_table_names_the_better_one(lake: Lake) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table(compare(lake, "quick", "slow")))
    (line,) = [x for x in console.export_text().splitlines() if "seconds" in x]
    assert line.split()[-1] == "quick"


def test_audits_keep_the_values_of_the_same_images(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttame_core.audits.recorded.RECORDED", 10)
    samples = [{"key": f"k{i:02d}", "split": "test", "label": 0} for i in range(IMAGES)]
    lake.write_parquet("datasets/d/index.parquet", samples, INDEX, "x")
    audit = spec.AuditSpec.model_validate(
        {
            "name": "zoo",
            "dataset": {"name": "d", "source": {"kind": "shapes"}},
            "backbones": [{"name": "net", "model": "resnet18", "pretrained": True}],
            "explainers": [{"method": "gradcam", "name": "quick"}],
        }
    )
    for day in (1, 2):
        outcome = Outcome({}, datetime(2025, 1, day, tzinfo=UTC))
        write_record(lake, audit, outcome, lambda recorded: None)
    found = run_query(lake, "FROM audit_values WHERE metric = 'seconds' ORDER BY timestamp, key")
    keys = found["key"].to_pylist()
    assert len(keys) == 20
    assert keys[:10] == keys[10:]
    assert set(found["explainer"].to_pylist()) == {"quick"}
    rows = compare(lake, "zoo@latest", "zoo@previous").rows.to_pylist()
    assert {r["metric"] for r in rows} == {"accuracy", "seconds", "forward_passes"}
    assert all(r["difference"] == 0 and r["pairs"] == 10 for r in rows)
