"""Shards and frozen backbones → how good other training settings would be."""

from __future__ import annotations

from flows.audit_flow import flow
from flows.each_backbone import run_units
from flows.engine import Here, Unit
from flows.open_audit import named, open_audit
from tasks.sweep import try_settings
from ttame_core.explainers import REGISTRY
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec


@flow(name="sweep_training", flow_run_name=named("sweep"))
def sweep_training(spec: AuditSpec | str, workspace: str, trials: int = 20) -> None:
    """Train the head of each backbone `trials` times, the first time with the spec's settings.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.
        trials: number of heads that are trained for each backbone and explainer, at least 1.

    Raises:
        BackbonesFailed: some backbones failed; the trials of the others are done.
    """
    audit = open_audit(spec, workspace).audit
    explainers = [e for e in audit.explainers if REGISTRY[e.method].needs_head]
    common = {"audit": audit, "workspace": Lake(workspace).place}
    units = [
        Unit(b.name, try_settings, {**common, "backbone": b, "explainer": e, "number": number})
        for b in audit.backbones
        for e in explainers
        for number in range(trials)
    ]
    run_units("try training settings", Here(), units)  # a trial follows from those before it
