"""Shards and frozen backbones → heads."""

from __future__ import annotations

from flows.audit_flow import flow
from flows.each_backbone import run_units
from flows.engine import Unit, opened_for_training
from flows.open_audit import named, open_audit
from tasks.train import train
from ttame_core.explainers import REGISTRY
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec


@flow(name="train_heads", flow_run_name=named("train"))
def train_heads(spec: AuditSpec | str, workspace: str) -> None:
    """Train a head for each backbone and each explainer that has heads.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.

    Raises:
        BackbonesFailed: some trainings failed; the others are done.
    """
    audit = open_audit(spec, workspace).audit
    explainers = [e for e in audit.explainers if REGISTRY[e.method].needs_head]
    common = {"audit": audit, "workspace": Lake(workspace).place}
    units = [
        Unit(b.name, train, {**common, "backbone": b, "explainer": e})
        for b in audit.backbones
        for e in explainers
    ]
    with opened_for_training(audit.compute) as engine:
        run_units("train heads", engine, units, gpus=audit.compute.devices)
