"""Task of the flow fit_backbones."""

from __future__ import annotations

from typing import Any

from tasks.models import one_network, training_shards
from tasks.progress import progress
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.backbones.devices import device_of
from ttame_core.errors import UserError
from ttame_core.lake import Lake, fitted_folder
from ttame_core.stages.provenance import Provenance
from ttame_core.training.checkpoint import remove_checkpoint
from ttame_core.training.fit import fit_backbone
from ttame_core.training.orders import TrainingOutput


@unit("fit {backbone.name}")
def fit(audit: spec.AuditSpec, workspace: str, backbone: spec.Backbone) -> Any:
    """Train one classifier on the data set."""
    provenance = Provenance(audit, Lake(workspace))
    if not provenance.classes:
        raise UserError(
            f"the images of {provenance.dataset} have no labels, so that {backbone.name} cannot be "
            "trained on them: leave `fit` out and give weights"
        )
    folder = fitted_folder(provenance.dataset, backbone.name)
    if provenance.is_fitted(backbone):
        remove_checkpoint(provenance.lake, folder)  # there, if the training was killed at its end
        return skipped()
    with one_network(), progress(f"fit {backbone.name}", "steps") as report:
        shards = training_shards(provenance)
        output = TrainingOutput(provenance.lake, folder, provenance.fit(backbone))
        classes, device = len(provenance.classes), device_of(audit.compute)
        fit_backbone(shards, output, backbone, classes, device, report)
