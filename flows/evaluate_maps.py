"""Maps and shards → scores."""

from __future__ import annotations

from flows.audit_flow import flow
from flows.each_backbone import run_units, units_of_shards
from flows.engine import opened
from flows.open_audit import named, open_audit
from tasks.evaluate import evaluate
from ttame_core.spec import AuditSpec


@flow(name="evaluate_maps", flow_run_name=named("evaluate"))
def evaluate_maps(spec: AuditSpec | str, workspace: str) -> None:
    """Write the scores of all maps of the audit's split.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.

    Raises:
        BackbonesFailed: some backbones failed; the scores of the others are written.
    """
    provenance = open_audit(spec, workspace)
    with opened(provenance.audit.compute) as engine:
        units = units_of_shards(evaluate, provenance, workspace, engine.room())
        run_units("evaluate", engine, units)
