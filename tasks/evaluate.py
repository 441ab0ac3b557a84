"""Task of the flow evaluate_maps."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import get_run_logger

from tasks.models import backbone_of, explainer_of, family_of, one_network
from tasks.progress import on_shard
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import in_smaller_batches
from ttame_core.explainers import Explainer
from ttame_core.lake import Lake, fingerprint, maps_file
from ttame_core.stages.evaluate import WantedScores, evaluate_shard
from ttame_core.stages.matched import match_of
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.shard import StoredShard


@unit("evaluate {shards} of {backbone.name}")
def evaluate(
    audit: spec.AuditSpec, workspace: str, backbone: spec.Backbone, shards: list[str]
) -> Any:
    """Write the missing scores of the maps of some shards."""
    provenance = Provenance(audit, Lake(workspace))
    with one_network():
        made = [_evaluate(provenance, backbone, shard) for shard in shards]
    return None if any(made) else skipped()


def _evaluate(provenance: Provenance, backbone: spec.Backbone, shard: str) -> bool:
    """Write the missing scores of one shard's maps, and return whether any were missing."""
    without_maps = provenance.missing_maps(backbone, shard)
    missing = provenance.missing_scores(backbone, shard)
    missing = [(e, metric) for e, metric in missing if e not in without_maps]
    for explainer in without_maps:
        path = maps_file(provenance.dataset, backbone.name, explainer.name, shard)
        get_run_logger().warning("no maps to evaluate at %s: run `ttame explain` first", path)
    if not missing:
        return False
    loaded = backbone_of(provenance, backbone)
    match = match_of(provenance, backbone, loaded)
    stored = StoredShard(provenance.lake, provenance.dataset, shard, match)
    wanted = [
        WantedScores(
            e.name,
            family_of(metric),
            provenance.scores(backbone, e, metric, shard),
            provenance.share(shard, metric.images),
            fingerprint(provenance.maps(backbone, e, shard)),
        )
        for e, metric in missing
    ]

    def make(settings: spec.Explainer, model: Backbone) -> Explainer:
        return explainer_of(provenance, model, backbone, settings)

    makers = {e.name: partial(make, e) for e, _ in missing}
    with on_shard("evaluate", shard, backbone.name, provenance.samples(shard)) as done:

        def run(compute: spec.Compute) -> None:
            evaluate_shard(stored, loaded, wanted, makers, compute, done)

        in_smaller_batches(provenance.audit.compute, run, get_run_logger().warning)
    return True
