"""A record as a whole: its files, and how often the lake is opened for them."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ttame_core import spec
from ttame_core.audits.record import Outcome, write_record
from ttame_core.lake import Lake
from ttame_core.lake.query import connection
from ttame_core.report.rendering import render


def test_a_record_asks_through_one_connection(
    known: tuple[Lake, spec.AuditSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, audit = Lake(shutil.copytree(known[0].root, tmp_path / "copy")), known[1]
    opened = []
    database = connection._database

    def counted(*given: Any) -> Any:
        opened.append(given)
        return database(*given)

    monkeypatch.setattr(connection, "_database", counted)
    folder = write_record(lake, audit, Outcome({}, datetime(2026, 5, 1, tzinfo=UTC)), render)
    assert len(opened) == 1
    written = {path.removeprefix(f"{folder}/") for path in lake.glob(f"{folder}/*")}
    assert written >= {
        "changes.parquet",
        "contact-sheet.png",
        "leaderboard.parquet",
        "record.json",
        "report.html",
        "spec.yaml",
        "thumbnails.parquet",
        "values.parquet",
    }
