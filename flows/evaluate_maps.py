"""Maps and shards → scores."""

from __future__ import annotations

from functools import partial

from prefect import flow

from flows.each_backbone import run_units
from flows.opening import named, open_audit
from tasks.evaluate import evaluate
from ttame_core.spec import AuditSpec


@flow(name="evaluate_maps", flow_run_name=named("evaluate"))
def evaluate_maps(spec: AuditSpec | str, workspace: str) -> None:
    """Write the scores of every map of the audit's split."""
    provenance = open_audit(spec, workspace)
    audit = provenance.audit
    shards = [name for name, _ in provenance.shards(audit.maps.split)]
    run_units(
        "evaluate",
        {
            b.name: [partial(evaluate, audit, workspace, b, s, return_state=True) for s in shards]
            for b in audit.backbones
        },
    )
