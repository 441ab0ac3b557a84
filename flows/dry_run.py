"""`ttame audit --dry-run`: print what an audit would make, what it takes, and what is there.

Nothing is written, and no code runs that a spec names.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from flows.doctor import size
from ttame_core.audits.forecast import Effort, Names, forecast
from ttame_core.audits.readiness import bytes_of, check_backbone, check_data
from ttame_core.data.index import count_current
from ttame_core.data.plan import ShardPlan, plan_shards
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY
from ttame_core.lake import Lake, dataset_file
from ttame_core.spec import TRUSTED, AuditSpec, Backbone
from ttame_core.stages.provenance import Provenance

Line = tuple[str, str, str, int, int]  # stage, backbone, explainer, files to make, files there
COLUMNS = ("to make", "there", "images", "passes", "time", "disk")


def print_plan(audit: AuditSpec, workspace: str) -> None:
    """Print for each stage, backbone and explainer what is to be made and what that takes.

    The source's files are listed and not read. Time is that of a few batches of noise, multiplied.
    """
    console = Console(width=120, highlight=False)
    planned = Lake(f"memory://dry-run/{audit.dataset.name}")
    plan = plan_shards(audit.dataset, planned)
    efforts: dict[Names, Effort] = {}
    sentences = []
    try:
        check_data(audit, plan)
    except UserError as error:
        sentences.append(str(error))
    splits = planned.read_table(dataset_file(plan.dataset, "plan.parquet"), ["shard", "split"])
    images = Counter(row["split"] for row in splits.to_pylist() if row["shard"])
    for backbone in audit.backbones if plan.shards else ():
        try:
            if _runs_code(audit, backbone):
                words = "it is looked at only by the audit itself, because its code would run"
            else:
                loaded, match = check_backbone(audit, plan, backbone)
                words = match.sentence
                efforts |= forecast(audit, backbone, loaded, images)
        except UserError as error:
            words = str(error)
        sentences.append(f"{backbone.name}: {words}")
    if audit.compute.address:
        sentences.append(
            f"compute: where {TRUSTED} names it, the audit uses the cluster at "
            f"{audit.compute.address}, and whoever runs it may run code on this machine"
        )
    efforts["shard", "", ""] = Effort(images.total(), bytes=bytes_of(planned, plan.dataset))
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("stage", "backbone", "explainer"):
        table.add_column(name, no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    total = Effort()
    for *names, missing, there in _lines(audit, Lake(workspace), plan):
        whole = efforts.get((names[0], names[1], names[2]))
        effort = whole and whole.times(missing / max(missing + there, 1))
        table.add_row(*names, str(missing), str(there), *_cells(effort))
        total = total.plus(effort) if effort else total
    console.print(table)
    remarks = [f"{audit.dataset.name}: {remark}." for remark in plan.remarks]
    for sentence in (*remarks, *sentences, _in_all(total, Lake(workspace))):
        console.print(sentence, markup=False)


def _runs_code(audit: AuditSpec, settings: Backbone) -> bool:
    """Say whether loading a classifier, or another that an explainer reads, runs users' code."""
    read = [explainer.auxiliary for explainer in audit.explainers]
    return any(one.runs_code for one in (settings, *read) if one)


def _cells(effort: Effort | None) -> list[str]:
    if effort is None:
        return ["", "", "", ""]
    passes = effort.forward + effort.backward
    return [
        str(effort.images),
        f"{passes:.0f}" if passes else "",
        duration(effort.seconds) if effort.seconds else "",
        size(effort.bytes) if effort.bytes else "",
    ]


def _in_all(total: Effort, lake: Lake) -> str:
    passes = total.forward + total.backward
    room = ""
    if lake.local:
        folder = Path(lake.root)
        there = next(path for path in (folder, *folder.parents) if path.exists())
        room = f", of {size(shutil.disk_usage(there).free)} that are free"
    return (
        f"In all about {duration(total.seconds)} on this machine without the decoding of pictures, "
        f"{passes:.0f} passes of an image forward or backward, and {size(total.bytes)}{room}."
    )


def duration(seconds: float) -> str:
    """Write a time for people, such as 40 s, 12 min or 3 h 20 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


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
        if audit.evaluation.marked:
            yield "paste", backbone.name, "", 1, 0
