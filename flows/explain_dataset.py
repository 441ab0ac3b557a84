"""Shards, backbones and heads → explanation maps."""

from __future__ import annotations

from prefect import get_run_logger

from flows.audit_flow import flow
from flows.each_backbone import run_units, units_of_shards
from flows.engine import opened
from flows.open_audit import named, open_audit
from tasks.explain import explain
from ttame_core.spec import AuditSpec


@flow(name="explain_dataset", flow_run_name=named("explain"))
def explain_dataset(spec: AuditSpec | str, workspace: str) -> None:
    """Write the maps of the audit's split, for each backbone and explainer.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.

    Raises:
        BackbonesFailed: some backbones failed; the maps of the others are written.
    """
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
    with opened(audit.compute) as engine:
        units = units_of_shards(explain, provenance, workspace, engine.room())
        run_units("explain", engine, units)
