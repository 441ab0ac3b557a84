"""The whole audit: shard, fit, train, explain, evaluate, report."""

from __future__ import annotations

from prefect import flow

from flows.each_backbone import BackbonesFailed
from flows.engine import opened
from flows.evaluate_maps import evaluate_maps
from flows.explain_dataset import explain_dataset
from flows.fit_backbones import fit_backbones
from flows.opening import named, open_spec
from flows.shard_dataset import shard_dataset
from flows.train_heads import train_heads
from tasks.report import report
from ttame_core.gates import GatesFailed
from ttame_core.lake import Lake
from ttame_core.report.record import failed_gates
from ttame_core.spec import AuditSpec

STAGES = (fit_backbones, train_heads, explain_dataset, evaluate_maps)


@flow(name="audit_zoo", flow_run_name=named("audit"))
def audit_zoo(spec: AuditSpec | str, workspace: str) -> str:
    """Audit many backbones; where one fails, the others go on and the audit ends as failed.

    Returns the place of the report. When all that can be done is done, raises BackbonesFailed, or
    GatesFailed where no backbone failed but a gate did.
    """
    audit = open_spec(spec)
    failures: dict[str, BaseException] = {}
    with opened(audit.compute):  # for all stages
        shard_dataset(audit, workspace)
        for stage in STAGES:
            left = [b for b in audit.backbones if b.name not in failures]
            if not left:
                break
            part = audit.model_copy(update={"backbones": left})
            state = stage(part, workspace, return_state=True)
            if not state.is_completed():
                error = state.result(raise_on_failure=False)
                if not isinstance(error, BackbonesFailed):
                    raise error
                failures |= error.failures
    place = report(audit, workspace, {name: str(error) for name, error in failures.items()})
    if failures:
        raise BackbonesFailed(failures)
    if broken := failed_gates(Lake(workspace), place):
        raise GatesFailed([row["words"] for row in broken])
    return place
