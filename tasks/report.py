"""Task that ends an audit: its record in the lake, its leaderboard on the Prefect page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact

from tasks.unit import unit
from ttame_core import spec
from ttame_core.lake import Lake
from ttame_core.report.record import audit_refusals, write_record
from ttame_core.report.tables import records, refusals, warnings


@unit("report {audit.name}")
def report(audit: spec.AuditSpec, workspace: str, failures: Mapping[str, str]) -> str:
    """Write the audit's record; returns its folder in the lake."""
    lake = Lake(workspace)
    folder = write_record(lake, audit, failures, datetime.now(UTC))
    board = lake.read_table(f"{folder}/leaderboard.parquet")
    notes = warnings(board, audit.evaluation.minimum_discrimination)
    for note in notes:
        get_run_logger().warning(note)
    refused = refusals(audit_refusals(lake, audit))
    failed = [f"{name} failed: {reason}" for name, reason in failures.items()]
    create_table_artifact(
        key="leaderboard",
        table=records(board),
        description="\n\n".join(
            [f"Audit {audit.name}: {lake.path(folder)}", *failed, *refused, *notes]
        ),
    )
    return folder
