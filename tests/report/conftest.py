"""The known lake, and the page of its audit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from known import HOSTILE, known_lake

from ttame_core import spec
from ttame_core.audits.record import Outcome, audit_board, write_record
from ttame_core.lake import Lake
from ttame_core.lake.schemas import LEADERBOARD
from ttame_core.report.rendering import render


@pytest.fixture(scope="session")
def known(
    drawn: tuple[Lake, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Lake, spec.AuditSpec]:
    return known_lake(drawn[0], tmp_path_factory.mktemp("known") / "lake")


@pytest.fixture(scope="session")
def report(known: tuple[Lake, spec.AuditSpec]) -> Path:
    """The page of the second audit of its name."""
    lake, audit = known
    before = "audits/known/20260101T000000Z"
    lake.write_json(f"{before}/record.json", {"failures": {}})
    lake.write_parquet(f"{before}/leaderboard.parquet", audit_board(lake, audit), LEADERBOARD, {})
    reason = f"no {HOSTILE}"
    folder = write_record(
        lake, audit, Outcome({"third": reason}, datetime(2026, 2, 1, tzinfo=UTC)), render
    )
    return Path(lake.path(folder)) / "report.html"
