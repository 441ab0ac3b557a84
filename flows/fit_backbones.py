"""Shards → classifiers, for backbones that the spec says to `fit`."""

from __future__ import annotations

from functools import partial

from prefect import flow

from flows.each_backbone import run_units
from flows.opening import named, open_audit
from tasks.fit import fit
from ttame_core.spec import AuditSpec


@flow(name="fit_backbones", flow_run_name=named("fit"))
def fit_backbones(spec: AuditSpec | str, workspace: str) -> None:
    """Train the classifiers that the audit asks for and the workspace does not hold."""
    audit = open_audit(spec, workspace).audit
    run_units(
        "fit classifiers",
        {
            b.name: [partial(fit, audit, workspace, b, return_state=True)]
            for b in audit.backbones
            if b.fit
        },
    )
