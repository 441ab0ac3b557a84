"""Task of the flow train_heads."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from tasks.models import backbone_of
from tasks.progress import progress
from tasks.together import train_one
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.lake import Lake, head_folder
from ttame_core.provenance import Provenance
from ttame_core.training import adopt_head, few_steps


@unit("train {explainer.name} on {backbone.name}")
def train(
    audit: spec.AuditSpec, workspace: str, backbone: spec.Backbone, explainer: spec.Explainer
) -> Any:
    """Train one head on one frozen backbone, or take the one that the spec gives."""
    provenance = Provenance(audit, Lake(workspace))
    if provenance.head_is_current(backbone, explainer):
        return skipped()
    folder = head_folder(provenance.dataset, backbone.name, explainer.name)
    made_from = provenance.head(backbone, explainer)
    if backbone.head:
        model = backbone_of(provenance, backbone)
        adopt_head(provenance.lake, backbone.head, model, folder, made_from)
        return None
    shards = provenance.shards("train")
    if warning := few_steps(audit.training, shards):
        get_run_logger().warning(warning)
    with progress(f"train {explainer.name} on {backbone.name}") as report:
        train_one(provenance, backbone, explainer, folder, report)
    return None
