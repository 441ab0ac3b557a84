"""Maps and shards → scores."""

from __future__ import annotations

from prefect import flow

from flows.each_backbone import batches, run_units
from flows.engine import Unit, opened
from flows.opening import named, open_audit, place_of
from tasks.evaluate import evaluate
from ttame_core.spec import AuditSpec


@flow(name="evaluate_maps", flow_run_name=named("evaluate"))
def evaluate_maps(spec: AuditSpec | str, workspace: str) -> None:
    """Write the scores of every map of the audit's split."""
    provenance = open_audit(spec, workspace)
    audit = provenance.audit
    shards = [name for name, _ in provenance.shards(audit.maps.split)]
    common = {"audit": audit, "workspace": place_of(workspace)}
    units = [
        Unit(b.name, evaluate, {**common, "backbone": b, "shards": some}, len(some))
        for b in audit.backbones
        for some in batches(shards, len(audit.backbones))
    ]
    with opened(audit.compute) as engine:
        run_units("evaluate", engine, units)
