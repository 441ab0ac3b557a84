"""Task that ends an audit: it writes the record into the lake, and artifacts for Prefect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect import get_run_logger
from prefect.events import emit_event
from prefect.runtime import flow_run

from tasks.artifacts import leave_artifacts
from tasks.progress import bar
from tasks.unit import unit
from ttame_core import spec
from ttame_core.audits.record import (
    Outcome,
    audit_refusals,
    check_complete,
    failed_gates,
    write_record,
)
from ttame_core.lake import Lake
from ttame_core.report.rendering import render
from ttame_core.report.tables import refusals, warnings


@unit("report {audit.name}")
def report(audit: spec.AuditSpec, workspace: str, failures: Mapping[str, str]) -> str:
    """Write the audit's record, and leave artifacts of it.

    Gates that do not hold are announced to Prefect: by the event `ttame.gates.failed` of the
    resource `ttame.audit.<name>`.

    Args:
        audit: the spec.
        workspace: folder or URL of the lake.
        failures: the error of each backbone that failed, in words, by its name.

    Returns:
        The folder of the record, within the lake.
    """
    lake = Lake(workspace)
    with bar(f"report {audit.name}", ""):
        check_complete(lake, audit, failures)
        outcome = Outcome(failures, datetime.now(UTC), flow_run.id or "")
        folder = write_record(lake, audit, outcome, render)
    broken = failed_gates(lake, folder)
    if broken:
        _announce(audit, lake, folder, broken)
    board = lake.read_table(f"{folder}/leaderboard.parquet")
    notes = warnings(board, audit.evaluation.minimum_discrimination)
    for note in notes:
        get_run_logger().warning(note)
    refused = refusals(audit_refusals(lake, audit))
    failed = [f"{name} failed: {reason}" for name, reason in failures.items()]
    failed += [f"Gate failed: {row['words']}" for row in broken]
    whole = [b.name for b in audit.backbones if b.name not in failures]
    leave_artifacts(lake, audit, folder, board, whole, [*failed, *refused, *notes])
    return folder


def _announce(
    audit: spec.AuditSpec, lake: Lake, folder: str, broken: Sequence[Mapping[str, Any]]
) -> None:
    """Emit the event that gates failed; its id follows from the record, so it counts once."""
    emit_event(
        "ttame.gates.failed",
        resource={
            "prefect.resource.id": f"ttame.audit.{audit.name}",
            "prefect.resource.name": audit.name,
        },
        payload={"record": folder, "workspace": lake.url, "failed": list(broken)},
        id=uuid5(NAMESPACE_URL, lake.path(folder)),
    )
