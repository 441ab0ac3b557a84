"""Task that looks at everything an audit needs before its first stage."""

from __future__ import annotations

from prefect import get_run_logger

from tasks.progress import bar
from tasks.unit import unit
from ttame_core import spec
from ttame_core.audits.readiness import problems
from ttame_core.data.plan import ShardPlan
from ttame_core.lake import Lake


@unit("check {audit.name}")
def check(audit: spec.AuditSpec, workspace: str, shards: ShardPlan) -> None:
    """Warn of each backbone that will fail; raise UserError where nothing can come of the audit."""
    with bar(f"check {audit.name}", ""):
        found = problems(audit, Lake(workspace), shards)
    for name, sentence in found.items():
        get_run_logger().warning(
            "backbone %s cannot be audited, the others can: %s", name, sentence
        )
