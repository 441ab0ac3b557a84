"""The whole audit: shard, fit, train, explain, evaluate, paste, report."""

from __future__ import annotations

from flows.audit_flow import flow
from flows.dump_maps import MAKING_MAPS
from flows.each_backbone import BackbonesFailed
from flows.evaluate_maps import evaluate_maps
from flows.open_audit import named, open_spec
from flows.paste_marked import paste_marked
from flows.stages import run_stages
from tasks.report import report
from ttame_core.audits.gates import GatesFailed
from ttame_core.audits.record import failed_gates
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec


@flow(name="audit_zoo", flow_run_name=named("audit"))
def audit_zoo(spec: AuditSpec | str, workspace: str) -> str:
    """Audit many backbones; where one fails, the others go on and the audit ends as failed.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.

    Returns:
        The folder of the audit's record, within the lake.

    Raises:
        BackbonesFailed: some backbones failed; the record of the others is written.
        GatesFailed: no backbone failed, but a gate did; the record is written.
    """
    audit = open_spec(spec)
    pasting = [paste_marked] if audit.evaluation.marked else []
    stages = (*MAKING_MAPS, evaluate_maps, *pasting)
    failures = run_stages(stages, audit, workspace)
    place = report(audit, workspace, {name: str(error) for name, error in failures.items()})
    if failures:
        raise BackbonesFailed(failures)
    if broken := failed_gates(Lake(workspace), place):
        raise GatesFailed([row["words"] for row in broken])
    return place
