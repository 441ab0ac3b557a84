"""Shards → classifiers, for backbones that the spec says to `fit`."""

from __future__ import annotations

from flows.audit_flow import flow
from flows.each_backbone import run_units
from flows.engine import Unit, opened
from flows.open_audit import named, open_audit
from tasks.fit import fit
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec


@flow(name="fit_backbones", flow_run_name=named("fit"))
def fit_backbones(spec: AuditSpec | str, workspace: str) -> None:
    """Train the classifiers that the audit asks for and the workspace does not hold.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.

    Raises:
        BackbonesFailed: some trainings failed; the others are done.
    """
    audit = open_audit(spec, workspace).audit
    common = {"audit": audit, "workspace": Lake(workspace).place}
    units = [Unit(b.name, fit, {**common, "backbone": b}) for b in audit.backbones if b.fit]
    with opened(audit.compute) as engine:
        run_units("fit classifiers", engine, units)
