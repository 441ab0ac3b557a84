"""Task of the flow explain_dataset."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from tasks.models import backbone_of
from tasks.progress import images_bar
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.explainers import REGISTRY, Explainer, NotApplicable
from ttame_core.explaining import explain_shard
from ttame_core.lake import Lake, head_folder
from ttame_core.provenance import Provenance
from ttame_core.training import load_head


@unit("explain {shard} of {backbone.name}")
def explain(audit: spec.AuditSpec, workspace: str, backbone: spec.Backbone, shard: str) -> Any:
    """Write the maps of one shard: a file for each explainer whose file is not there yet."""
    provenance = Provenance(audit, Lake(workspace))
    missing = provenance.missing_maps(backbone, shard)
    if not missing:
        return skipped()
    model = backbone_of(provenance, backbone)
    explainers = _explainers(provenance, model, backbone, missing)
    with images_bar(f"explain {shard}", provenance.samples(shard)) as done:
        explain_shard(
            provenance.lake,
            provenance.dataset,
            shard,
            model,
            explainers,
            {e: provenance.maps(backbone, e, shard) for e in explainers},
            audit.maps.targets,
            audit.compute,
            done,
        )


def _explainers(
    provenance: Provenance, model: Backbone, backbone: spec.Backbone, names: list[str]
) -> dict[str, Explainer]:
    """Those of the named explainers that apply to this backbone."""
    made: dict[str, Explainer] = {}
    for name in names:
        head = None
        if REGISTRY[name].needs_head:
            folder = head_folder(provenance.dataset, backbone.name, name)
            head = load_head(provenance.lake, folder, model)
        try:
            made[name] = REGISTRY[name](model, head)
        except NotApplicable as reason:
            get_run_logger().warning("%s does not apply to %s: %s", name, backbone.name, reason)
    return made
