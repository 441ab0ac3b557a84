"""`ttame audit --dry-run`: print what an audit would make and what is there; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from ttame_core.backbones import load_backbone
from ttame_core.backbones.classes import ClassList
from ttame_core.data.index import count_current
from ttame_core.data.matching import Classifier, DataClasses
from ttame_core.data.plan import ShardPlan, plan_shards
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec, Backbone
from ttame_core.stages.matched import match_section
from ttame_core.stages.provenance import Provenance

Line = tuple[str, str, str, int, int]  # stage, backbone, explainer, files to make, files there


def print_plan(audit: AuditSpec, workspace: str) -> None:
    """Print the number of files to make for each stage, backbone and explainer.

    The source's files are listed and not read.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("stage", "backbone", "explainer"):
        table.add_column(name, no_wrap=True)
    for name in ("to make", "there"):
        table.add_column(name, justify="right")
    plan = plan_shards(audit.dataset, Lake(f"memory://dry-run/{audit.dataset.name}"))
    for *names, missing, there in _lines(audit, Lake(workspace), plan):
        table.add_row(*names, str(missing), str(there))
    console = Console(width=120, highlight=False)
    console.print(table)
    data = DataClasses(plan.classes, plan.present, audit.dataset.classes is not None)
    for backbone in audit.backbones:
        console.print(f"{backbone.name}: {_matched(audit, data, backbone)}", markup=False)


def _matched(audit: AuditSpec, data: DataClasses, settings: Backbone) -> str:
    """Say which classes of a classifier those of the data set are, or why that cannot be said."""
    try:
        if settings.fit is not None:
            classifier = Classifier(settings.name, len(data.names), ClassList())
        else:
            loaded = load_backbone(settings)
            classifier = Classifier(settings.name, loaded.num_classes, loaded.classes)
        return match_section(audit.dataset, data, settings, classifier).sentence
    except UserError as error:
        return str(error)


def _lines(audit: AuditSpec, lake: Lake, plan: ShardPlan) -> Iterator[Line]:
    there = count_current(lake, plan)
    yield "shard", "", "", len(plan.shards) - there, there
    if there < len(plan.shards):  # all that is made from shards waits for the missing ones
        shards = sum(name.startswith(f"{audit.maps.split}-") for name in plan.shards)
        yield from _everything(audit, shards)
        return
    counts: dict[tuple[str, str, str], Counter[bool]] = {}
    for work in Provenance(audit, lake, imports=False).work():
        counts.setdefault((work.stage, work.backbone, work.explainer), Counter())[work.done] += 1
    for names, count in counts.items():
        yield *names, count[False], count[True]


def _everything(audit: AuditSpec, shards: int) -> Iterator[Line]:
    for backbone in audit.backbones:
        if backbone.fit:
            yield "fit", backbone.name, "", 1, 0
        for explainer in audit.explainers:
            if REGISTRY[explainer.method].needs_head:
                yield "train", backbone.name, explainer.name, 1, 0
        for stage in ("explain", "evaluate"):
            for explainer in audit.explainers:
                yield stage, backbone.name, explainer.name, shards, 0
