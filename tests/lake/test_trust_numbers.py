"""The view `trust`: by hand, for images with and without a measured stability."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import run_query

PLACE = ("d", "net", "ttame", "test-000000")
ABOUT = {"label": 0, "predicted": 1, "target": 1}


def test_it_is_the_lower_of_what_is_kept_and_what_is_stable(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    kept = {"a": (0.8, 0.6), "b": (0.5, 0.9), "c": (0.4, 0.1)}  # p whole, p masked
    rows = [
        {"key": key, **ABOUT, "keep": keep, "fill": fill, "p": p, "p_masked": left}
        for key, (p, masked) in kept.items()
        for keep, fill, left in ((15.0, "zero", masked), (50.0, "zero", p), (15.0, "blur", 0.0))
    ]
    lake.write_parquet(scores_file("confidence", *PLACE), rows, schema_of("confidence"), {})
    noisy = {"a": 0.1, "b": 0.4}  # share of the map that noise moves
    rows = [{"key": key, **ABOUT, "max_sensitivity": value} for key, value in noisy.items()]
    lake.write_parquet(scores_file("robustness", *PLACE), rows, schema_of("robustness"), {})
    asked = "SELECT key, kept, stable, trust FROM trust WHERE target = predicted ORDER BY key"
    found = {row["key"]: row for row in run_query(lake, asked).to_pylist()}
    expected = {"a": (75, 90, 75), "b": (100, 60, 60), "c": (25, None, 25)}
    assert found.keys() == expected.keys()
    for key, (share, stable, trust) in expected.items():
        assert found[key]["kept"] == pytest.approx(share, abs=1e-3)
        assert found[key]["stable"] == (None if stable is None else pytest.approx(stable, abs=1e-3))
        assert found[key]["trust"] == pytest.approx(trust, abs=1e-3)
