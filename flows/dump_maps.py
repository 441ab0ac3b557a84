"""Everything up to the maps: shard, fit, train, explain. No scores and no report."""

from __future__ import annotations

from flows.audit_flow import flow
from flows.each_backbone import BackbonesFailed
from flows.explain_dataset import explain_dataset
from flows.fit_backbones import fit_backbones
from flows.open_audit import named, open_spec
from flows.stages import run_stages
from flows.train_heads import train_heads
from ttame_core.spec import AuditSpec

MAKING_MAPS = (fit_backbones, train_heads, explain_dataset)


@flow(name="dump_maps", flow_run_name=named("dump maps of"))
def dump_maps(spec: AuditSpec | str, workspace: str) -> None:
    """Write the maps of a data set, and the shards, classifiers and heads that are missing.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.
    """
    if failures := run_stages(MAKING_MAPS, open_spec(spec), workspace):
        raise BackbonesFailed(failures)
