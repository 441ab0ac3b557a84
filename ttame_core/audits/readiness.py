"""What is wrong with an audit as far as it can be known before its first stage.

The inputs of the data set are listed by then, and none is opened.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pyarrow.compute as pc
import torch

from ttame_core import spec
from ttame_core.backbones import Backbone, create_model, load_backbone
from ttame_core.backbones.backbone import preprocessing_of
from ttame_core.backbones.classes import class_list
from ttame_core.data.index import count_current
from ttame_core.data.labels import UNKNOWN
from ttame_core.data.matching import Classifier, DataClasses, Match
from ttame_core.data.plan import ShardPlan
from ttame_core.data.sources.containers import stays
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, NotApplicable
from ttame_core.heads.files import read_head
from ttame_core.lake import Lake, dataset_file
from ttame_core.stages.explain import choose_targets, target_classes
from ttame_core.stages.matched import match_section
from ttame_core.stages.provenance import Provenance, given_head


def check_data(audit: spec.AuditSpec, plan: ShardPlan) -> None:
    """Check that a data set has what the audit asks for.

    Args:
        audit: the spec.
        plan: the plan of the data set's shards.

    Raises:
        UserError: there is nothing to explain or to train on, or a classifier would be trained on
            images of fewer than two classes.
    """
    splits, name = {shard.rpartition("-")[0] for shard in plan.shards}, plan.dataset
    if not splits:
        return  # the sentence that says why none of the inputs can be used comes with the shards
    there = "there are only: " + ", ".join(split for split in spec.SPLITS if split in splits)
    wanted = audit.maps.split
    if wanted not in splits:
        raise UserError(
            f"data set {name} has no image in the split {wanted}, which `maps.split` says is "
            f"explained; {there}. Name another by `maps: {{split: …}}`, or change the shares in "
            "`dataset.splits`"
        )
    for backbone in audit.backbones:
        heads = [
            explainer.name
            for explainer in audit.explainers
            if REGISTRY[explainer.method].needs_head and not given_head(backbone, explainer)
        ]
        learns = "its classifier" if backbone.fit else f"the head of {heads[0]}" if heads else ""
        if learns and "train" not in splits:
            raise UserError(
                f"data set {name} has no image in the split train, on which {learns} of backbone "
                f"{backbone.name} is trained; {there}. Give some by `dataset.splits`, or "
                + ("leave `fit` out" if backbone.fit else f"leave the explainer {heads[0]} out")
            )
        if backbone.fit and len(plan.classes) < 2:
            raise UserError(
                f"the images of data set {name} have "
                f"{'one class alone' if plan.classes else 'no labels'}, so that backbone "
                f"{backbone.name} cannot be trained on them: leave `fit` out and give weights"
            )
        if backbone.fit and plan.several and backbone.outputs != "sigmoid":
            raise UserError(
                f"images of data set {name} have more than one label, and backbone "
                f"{backbone.name} would be trained for classes that exclude each other: say "
                "`outputs: sigmoid`"
            )


def check_backbone(
    audit: spec.AuditSpec, plan: ShardPlan, settings: spec.Backbone, fetch: bool = True
) -> tuple[Backbone, Match]:
    """Load a classifier, and check that the audit can be made of it.

    Args:
        audit: the spec.
        plan: the plan of the data set's shards.
        settings: the backbone's section.
        fetch: whether pretrained weights are loaded, which may have to be downloaded.

    Returns:
        The classifier on the CPU, and its classes. Its weights are random where it has `fit`, or
        where they are not fetched.

    Raises:
        UserError: its weights, its taps, its classes, its head, a target, or a package that one of
            the explainers needs is not there or does not fit.
    """
    data = DataClasses(plan.classes, plan.present, audit.dataset.classes is not None)
    if settings.fit is None and (fetch or not settings.pretrained):
        backbone = load_backbone(settings)
    else:
        given = settings.model_copy(update={"pretrained": settings.pretrained and fetch})
        model = create_model(given, settings.checkpoint, len(data.names) if settings.fit else None)
        view = preprocessing_of(settings, model)
        backbone = Backbone(model, settings.name, view, settings.taps, settings.outputs)
        if settings.fit is None:
            backbone.classes = class_list(settings, model, backbone.num_classes)
    classifier = Classifier(settings.name, backbone.num_classes, backbone.classes)
    match = match_section(audit.dataset, data, settings, classifier)
    targets = target_classes(audit.maps.targets, match.theirs)
    unknown = match.unmatched or not data.present
    choose_targets(
        torch.zeros(1, backbone.num_classes),
        torch.tensor([[UNKNOWN if unknown else 0]]),
        targets,
        settings.name,
    )
    for section in audit.explainers:
        with suppress(NotApplicable):  # the report says of each to which it does not apply
            explainer = REGISTRY[section.method](backbone, section.settings)
            if head := given_head(settings, section):
                hint = "give `head` another file, or leave it out to train one"
                read_head(head, explainer, hint)  # type: ignore[arg-type]
    return backbone, match


def check_disk(audit: spec.AuditSpec, plan: ShardPlan, lake: Lake) -> None:
    """Check that the pictures fit on the workspace's disk, where it is one and none is there yet.

    Args:
        audit: the spec.
        plan: the plan of the data set's shards.
        lake: the workspace, which holds the plan.

    Raises:
        UserError: the shards are larger than the room that is left.
    """
    if not lake.local or audit.dataset.max_size:
        return
    free = shutil.disk_usage(Path(lake.root)).free
    needed = bytes_of(lake, plan.dataset)
    if needed > free:
        raise UserError(
            f"the pictures of data set {plan.dataset} take {needed / 2**30:.1f} GiB in shards, and "
            f"{lake} has {free / 2**30:.1f} GiB left: make room, give another --workspace, or keep "
            "smaller copies by `dataset.max_size`"
        )


def bytes_of(lake: Lake, dataset: str) -> int:
    """Return what a planned data set's pictures take in shards, in bytes, as far as it is known."""
    plan = lake.read_table(dataset_file(dataset, "plan.parquet"), ["shard", "stamp", "location"])
    rows = plan.filter(pc.field("shard") != "").to_pylist()
    sizes = (row["stamp"].partition("/")[0] for row in rows if not stays(row["location"]))
    return sum(int(size) for size in sizes if size.isdigit())


def problems(
    audit: spec.AuditSpec, lake: Lake, plan: ShardPlan, fetch: bool = True
) -> dict[str, str]:
    """Find what is wrong before anything is made.

    A backbone whose last scores are in the workspace already is not looked at again.

    Args:
        audit: the spec.
        lake: the workspace, which holds the plan.
        plan: the plan of the data set's shards.
        fetch: whether pretrained weights are loaded, which may have to be downloaded.

    Returns:
        A sentence for each backbone that cannot be audited, by its name.

    Raises:
        UserError: nothing can be audited.
    """
    check_data(audit, plan)
    there = count_current(lake, plan)
    if not there:
        check_disk(audit, plan, lake)
    provenance = Provenance(audit, lake) if there == len(plan.shards) else None
    found: dict[str, str] = {}
    for settings in audit.backbones if plan.shards else ():
        try:
            if provenance is None or not _is_through(provenance, settings):
                check_backbone(audit, plan, settings, fetch)
        except UserError as error:
            found[settings.name] = str(error)
    if len(found) == len(audit.backbones):
        raise UserError("\n".join(found.values()))
    return found


def _is_through(provenance: Provenance, settings: spec.Backbone) -> bool:
    """Say whether the last shard's scores of a backbone are there, which are made at the end."""
    last = [name for name, _ in provenance.shards(provenance.audit.maps.split)][-1:]
    return all(not provenance.missing_scores(settings, shard) for shard in last)
