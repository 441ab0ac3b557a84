"""Task of the flow evaluate_maps."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from tasks.models import backbone_of
from tasks.progress import images_bar
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.evaluation import evaluate_shard
from ttame_core.lake import Lake, maps_file
from ttame_core.provenance import Provenance


@unit("evaluate {shard} of {backbone.name}")
def evaluate(audit: spec.AuditSpec, workspace: str, backbone: spec.Backbone, shard: str) -> Any:
    """Write the scores of one shard's maps, for each explainer whose scores are not there yet."""
    provenance = Provenance(audit, Lake(workspace))
    without_maps = set(provenance.missing_maps(backbone, shard))
    missing = [e for e in provenance.missing_scores(backbone, shard) if e not in without_maps]
    for explainer in sorted(without_maps):
        path = maps_file(provenance.dataset, backbone.name, explainer, shard)
        get_run_logger().warning("no maps to evaluate at %s: run `ttame explain` first", path)
    if not missing:
        return skipped()
    with images_bar(f"evaluate {shard}", provenance.samples(shard)) as done:
        evaluate_shard(
            provenance.lake,
            provenance.dataset,
            shard,
            backbone_of(provenance, backbone),
            {e: provenance.scores(backbone, e, shard) for e in missing},
            audit.evaluation.keep,
            audit.compute,
            done,
        )
