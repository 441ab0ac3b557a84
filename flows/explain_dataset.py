"""Shards, backbones and heads → explanation maps."""

from __future__ import annotations

from prefect import flow, get_run_logger

from flows.each_backbone import batches, run_units
from flows.engine import Unit, opened
from flows.opening import named, open_audit, place_of
from tasks.explain import explain
from ttame_core.spec import AuditSpec


@flow(name="explain_dataset", flow_run_name=named("explain"))
def explain_dataset(spec: AuditSpec | str, workspace: str) -> None:
    """Write the maps of every shard of the audit's split, for each backbone and explainer."""
    provenance = open_audit(spec, workspace)
    audit = provenance.audit
    allowed = provenance.explainers()
    for explainer in audit.explainers:
        if explainer not in allowed:
            get_run_logger().warning(
                "%s is left out: data set %s has no annotations",
                explainer.name,
                audit.dataset.name,
            )
    shards = [name for name, _ in provenance.shards(audit.maps.split)]
    common = {"audit": audit, "workspace": place_of(workspace)}
    units = [
        Unit(b.name, explain, {**common, "backbone": b, "shards": some}, len(some))
        for b in audit.backbones
        for some in batches(shards, len(audit.backbones))
    ]
    with opened(audit.compute) as engine:
        run_units("explain", engine, units)
