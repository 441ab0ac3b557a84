"""Shards and frozen backbones → heads."""

from __future__ import annotations

from functools import partial

from prefect import flow

from flows.each_backbone import run_units
from flows.opening import named, open_audit
from tasks.train import train
from ttame_core.explainers import REGISTRY
from ttame_core.spec import AuditSpec


@flow(name="train_heads", flow_run_name=named("train"))
def train_heads(spec: AuditSpec | str, workspace: str) -> None:
    """Train the head of each backbone and each explainer that has one."""
    audit = open_audit(spec, workspace).audit
    explainers = [e for e in audit.explainers if REGISTRY[e.method].needs_head]
    run_units(
        "train heads",
        {
            b.name: [partial(train, audit, workspace, b, e, return_state=True) for e in explainers]
            for b in audit.backbones
        },
    )
