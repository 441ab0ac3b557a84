"""Task of the flow explain_dataset."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from tasks.models import backbone_of, explainer_of, one_network
from tasks.progress import on_shard
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import in_smaller_batches
from ttame_core.explainers import NotApplicable
from ttame_core.lake import Lake, classes_file
from ttame_core.stages.explain import WantedMaps, explain_shard, target_classes, write_refusal
from ttame_core.stages.matched import match_of, write_match
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.roles import write_roles
from ttame_core.stages.shard import StoredShard


@unit("explain {shards} of {backbone.name}")
def explain(
    audit: spec.AuditSpec, workspace: str, backbone: spec.Backbone, shards: list[str]
) -> Any:
    """Write the missing maps of some shards: a file for each shard and explainer.

    The names of the classes are written with them, or alone where they were lost.
    """
    provenance = Provenance(audit, Lake(workspace))
    write_roles(provenance.lake, provenance.audit, [backbone.name])
    with one_network():
        made = [_explain(provenance, backbone, shard) for shard in shards]
        names = classes_file(provenance.dataset, backbone.name)
        if not any(made) and not provenance.lake.exists(names):
            model = backbone_of(provenance, backbone)
            write_match(provenance, backbone.name, match_of(provenance, backbone, model))
            return None
    return None if any(made) else skipped()


def _explain(provenance: Provenance, backbone: spec.Backbone, shard: str) -> bool:
    """Write the missing maps of one shard, and return whether any were missing."""
    missing = provenance.missing_maps(backbone, shard)
    if not missing:
        return False
    model = backbone_of(provenance, backbone)
    match = match_of(provenance, backbone, model)
    write_match(provenance, backbone.name, match)
    stored = StoredShard(provenance.lake, provenance.dataset, shard, match)
    wanted = _wanted(provenance, model, backbone, missing, stored)
    if wanted:
        targets = target_classes(provenance.audit.maps.targets, match.theirs)
        with on_shard("explain", shard, backbone.name, provenance.samples(shard)) as done:

            def run(compute: spec.Compute) -> None:
                explain_shard(stored, model, wanted, targets, compute, done)

            in_smaller_batches(provenance.audit.compute, run, get_run_logger().warning)
    return True


def _wanted(
    provenance: Provenance,
    model: Backbone,
    backbone: spec.Backbone,
    explainers: list[spec.Explainer],
    shard: StoredShard,
) -> list[WantedMaps]:
    """Return the maps to make.

    For an explainer that does not apply to the backbone, a file with the reason takes the place of
    the maps.
    """
    wanted = []
    for settings in explainers:
        made_from = provenance.maps(backbone, settings, shard.name)
        try:
            explainer = explainer_of(provenance, model, backbone, settings)
        except NotApplicable as reason:
            get_run_logger().warning(
                "%s does not apply to %s: %s", settings.name, backbone.name, reason
            )
            write_refusal(shard, backbone.name, settings.name, made_from, str(reason))
            continue
        images = provenance.explained(shard.name, settings)
        dtype = provenance.audit.maps.dtype
        head = provenance.head_hash(backbone, settings)
        wanted.append(WantedMaps(settings.name, explainer, made_from, images, dtype, head))
    return wanted
