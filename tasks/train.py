"""Task of the flow train_heads."""

from __future__ import annotations

from typing import Any, cast

from prefect import get_run_logger

from tasks.models import backbone_of, one_network
from tasks.progress import progress
from tasks.training import train_one
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.explainers import REGISTRY, NotApplicable, training_of
from ttame_core.explainers.trained import Trained
from ttame_core.heads.files import adopt_head, refuse_head
from ttame_core.lake import Lake, head_folder
from ttame_core.stages.provenance import Provenance, given_head
from ttame_core.training.checkpoint import remove_checkpoint
from ttame_core.training.head import few_steps


@unit("train {explainer.name} on {backbone.name}")
def train(
    audit: spec.AuditSpec, workspace: str, backbone: spec.Backbone, explainer: spec.Explainer
) -> Any:
    """Train one head on one frozen backbone, or take over the head that the spec names."""
    provenance = Provenance(audit, Lake(workspace))
    folder = head_folder(provenance.dataset, backbone.name, explainer.name)
    if provenance.head_is_current(backbone, explainer):
        remove_checkpoint(provenance.lake, folder)  # there, if the training was killed at its end
        return skipped()
    made_from = provenance.head(backbone, explainer)
    try:
        if given := given_head(backbone, explainer):
            with one_network():
                model = backbone_of(provenance, backbone)
                untrained = REGISTRY[explainer.method](model, explainer.settings)
                adopt_head(provenance.lake, given, cast(Trained, untrained), folder, made_from)
            return None
        if warning := few_steps(training_of(audit.training, explainer), provenance.shards("train")):
            get_run_logger().warning("%s: %s", explainer.name, warning)
        with (
            one_network(),
            progress(f"train {explainer.name} on {backbone.name}", "steps") as report,
        ):
            train_one(provenance, backbone, explainer, folder, report)
    except NotApplicable as reason:
        refuse_head(provenance.lake, folder, made_from, str(reason))
        get_run_logger().warning(
            "%s does not apply to %s: %s", explainer.name, backbone.name, reason
        )
    return None
