"""The page of images: its data are those of the lake, and bounded."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known import HOSTILE, KEPT, known_lake

from ttame_core import spec
from ttame_core.audits.record import Outcome, write_record
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query
from ttame_core.report import images
from ttame_core.report.rendering import render


def _data(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page)
    return json.loads(text)


def test_the_page_carries_predictions_trust_and_maps(
    known: tuple[Lake, spec.AuditSpec], report: Path
) -> None:
    page = report.with_name("images.html").read_text()
    assert HOSTILE not in page
    data = _data(page)
    assert data["explainers"] == ["ttame", "gradcam"]
    assert len(data["rows"]) == 24
    (sql,) = re.findall(r"<pre[^>]*>(.*?)</pre>", page, flags=re.S)
    asked = run_query(known[0], sql.replace("&#39;", "'").replace("&gt;", ">")).to_pylist()
    trust = {(r["backbone"], r["key"], r["explainer"]): r["trust"] for r in asked}
    for row in data["rows"]:
        for name, value in zip(data["explainers"], row["trust"], strict=True):
            assert value == pytest.approx(trust[row["backbone"], row["key"], name], abs=0.01)
            assert value == pytest.approx(90 * KEPT[name], rel=0.12)
    assert sum(row["right"] is False for row in data["rows"]) == 1
    height, width, encoded = data["rows"][0]["maps"][1]
    heat = np.frombuffer(base64.b64decode(encoded), dtype=np.uint8).reshape(height, width)
    expected = np.zeros((4, 4))
    expected[:2, :2] = 255
    np.testing.assert_array_equal(heat, expected)
    assert len(data["views"]) == 12  # both classifiers see the same


def test_of_many_predictions_half_are_those_of_least_trust(
    drawn: tuple[Lake, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, audit = known_lake(drawn[0], tmp_path / "lake")
    monkeypatch.setattr(images, "MOST", 8)
    monkeypatch.setattr(images, "PICTURED", 4)
    folder = write_record(lake, audit, Outcome({}, datetime(2026, 1, 1, tzinfo=UTC)), render)
    page = Path(lake.path(f"{folder}/images.html")).read_text()
    data = _data(page)
    assert "8 of 24 predictions" in page
    for backbone in ("net", "other"):
        own = [row for row in data["rows"] if row["backbone"] == backbone]
        assert len(own) == 4
        assert sum("view" in row for row in own) == 2
        # What ttame keeps of the twelve images: 81 · (1 − 0.01 i) %.
        assert {72.09, 72.9} <= {row["trust"][0] for row in own}


def test_large_maps_are_averaged() -> None:
    height, width, encoded = images._map(np.linspace(0, 1, 56 * 56).reshape(56, 56))
    assert (height, width) == (28, 28)
    values = np.frombuffer(base64.b64decode(encoded), dtype=np.uint8)
    assert values.mean() == pytest.approx(127.5, abs=0.5)
