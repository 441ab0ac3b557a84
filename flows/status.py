"""`ttame status`: what is done, running and failed, and the disk used."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.doctor import size
from flows.runs import Runs, recent_runs
from ttame_core.errors import UserError
from ttame_core.lake import Lake, dataset_file
from ttame_core.lake.contents import STAGES, StageFiles, stage_files
from ttame_core.lake.query.formats import write_result
from ttame_core.lake.records import read_about
from ttame_core.spec import AuditSpec

SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("dataset", pa.string()),
        ("backbone", pa.string()),
        ("explainer", pa.string()),
        ("done", pa.int64()),
        ("of", pa.int64()),
        ("running", pa.int64()),
        ("failed", pa.int64()),
        ("bytes", pa.int64()),
        ("note", pa.string()),
    ]
)
Names = tuple[str, str, str, str]  # stage, data set or audit, backbone, explainer


@dataclass
class Row:
    """A line of the status.

    Attributes:
        names: stage, data set (or audit), backbone and explainer.
        done: number of shards, heads, trials or records that are whole.
        of: number of those there will be; None where that is not known.
        running: number of files or task runs under way.
        failed: number of failed task runs.
        bytes: size of the files.
        note: words on files that are half written, begun, or to be made again.
    """

    names: Names
    done: int = 0
    of: int | None = None
    running: int = 0
    failed: int = 0
    bytes: int = 0
    note: str = ""


def print_status(workspace: str, audit: AuditSpec | None, format: str, output: str | None) -> None:
    """Print the status of a workspace, or of what one audit makes there.

    Args:
        workspace: folder or URL of the lake.
        audit: the audit; None for all of the workspace.
        format: table (for people), markdown, csv, json or parquet.
        output: file to write; None for the terminal.
    """
    lake = Lake(workspace)
    runs = recent_runs(workspace, audit.name if audit else None)
    rows = _rows(lake, audit, runs)
    if format != "table" or output:
        write_result(_table(rows), format, output)
        return
    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if rows:
        out.print(_for_people(rows))
    else:
        out.print("Nothing is there yet: ttame audit SPEC makes it.")
    free = f", {size(shutil.disk_usage(lake.root).free)} free" if _on_disk(lake) else ""
    out.print(f"{lake}: {size(sum(row.bytes for row in rows))}{free}", markup=False)
    for sentence in (*runs.sentences, *_failures(lake, audit)):
        out.print(f"- {sentence}", style="yellow", markup=False)
    out.print(runs.source, style="dim", markup=False)


def _rows(lake: Lake, audit: AuditSpec | None, runs: Runs) -> list[Row]:
    there = {one.names: one for one in stage_files(lake)}
    planned = _planned(lake, audit) if audit else {}
    names = {*planned, *(n for n in there if audit is None or _is_of(audit, n))}
    names |= {
        n
        for n in {*runs.running, *runs.failed}
        if n[3] or not any(_same(n, other) for other in names)
    }
    totals = _Totals(lake)
    rows = []
    for one in sorted(names, key=lambda n: (STAGES.index(n[0]), *n[1:])):
        files = there.get(one) or StageFiles(*one)
        done, of = planned.get(one, (files.done, None))
        row = Row(one, done, of if one in planned else totals.of(files), bytes=files.bytes)
        row.running = files.writing or _count(runs.running, one)
        row.failed = _count(runs.failed, one)
        row.note = _note(files, done, row.running)
        rows.append(row)
    return rows


def _planned(lake: Lake, audit: AuditSpec) -> dict[Names, tuple[int, int]]:
    """Count the files that the audit makes from its shards: how many are done, and of how many.

    The result is empty where the data set is not in the workspace.
    """
    from ttame_core.stages.provenance import Provenance  # and PyTorch, which others do without

    dataset = audit.dataset.name
    if not lake.exists(dataset_file(dataset, "shards.parquet")):
        return {}
    counts: dict[Names, Counter[bool]] = {}
    for work in Provenance(audit, lake, imports=False).work():
        names = work.stage, dataset, work.backbone, work.explainer
        counts.setdefault(names, Counter())[work.done] += 1
    return {names: (count[True], count.total()) for names, count in counts.items()}


def _is_of(audit: AuditSpec, names: Names) -> bool:
    stage, dataset, backbone, explainer = names
    if stage == "report":
        return dataset == audit.name
    return (
        dataset == audit.dataset.name
        and backbone in ("", *(b.name for b in audit.backbones))
        and explainer in ("", *(e.name for e in audit.explainers))
    )


class _Totals:
    """Counts of the files that there will be, from the shards in the data set's index."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._splits: dict[str, Counter[str]] = {}

    def of(self, files: StageFiles) -> int | None:
        if files.stage in ("fit", "train", "paste"):
            return 1
        if files.stage in ("sweep", "report"):
            return None
        shards = self._of_splits(files.dataset)
        if files.stage == "shard":
            return shards.total() or None
        return sum(shards[split] for split in files.splits) or None

    def _of_splits(self, dataset: str) -> Counter[str]:
        if dataset not in self._splits:
            place = dataset_file(dataset, "shards.parquet")
            shards = self._lake.read_table(place).to_pylist() if self._lake.exists(place) else []
            self._splits[dataset] = Counter(s["split"] for s in shards if s["samples"])
        return self._splits[dataset]


def _same(run: Names, row: Names) -> bool:
    """Say whether a task run counts in a row of the status: its names are the row's, or empty."""
    return all(a in ("", b) for a, b in zip(run, row, strict=True))


def _count(runs: Mapping[Names, int], row: Names) -> int:
    return sum(number for names, number in runs.items() if _same(names, row))


def _note(files: StageFiles, current: int, running: int) -> str:
    notes = []
    if files.done > current:
        notes.append(f"{files.done - current} to be made again")
    if files.begun:
        notes.append("begun" if running else "begun: goes on from its checkpoint")
    if files.left:
        notes.append(f"{files.left} left half written, which the next run removes")
    return "; ".join(notes)


def _failures(lake: Lake, audit: AuditSpec | None) -> Iterator[str]:
    """Yield a sentence for each failure that the last record of each audit names."""
    pattern = audit.name if audit else "*"
    last = {path.split("/")[1]: path for path in lake.glob(f"audits/{pattern}/*/record.json")}
    for name, path in last.items():
        when = path.split("/")[2]
        try:
            failures = read_about(lake, path.rpartition("/")[0]).failures
        except UserError as error:
            yield str(error)
            continue
        for backbone, reason in failures.items():
            yield f"audit {name} of {when}: {backbone} failed: {reason}"


def _on_disk(lake: Lake) -> bool:
    return lake.local and lake.exists("")


def _table(rows: Iterable[Row]) -> pa.Table:
    def record(row: Row) -> dict[str, object]:
        names = dict(zip(SCHEMA.names[:4], row.names, strict=True))
        return {**names, **{k: v for k, v in row.__dict__.items() if k != "names"}}

    return pa.Table.from_pylist([record(row) for row in rows], SCHEMA)


def _for_people(rows: Iterable[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in ("stage", "of what", "backbone", "explainer"):
        table.add_column(name, no_wrap=True)
    for name in ("done", "running", "failed", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        whole = row.of is None or row.done >= row.of
        done = str(row.done) if row.of is None else f"{row.done} of {row.of}"
        table.add_row(
            *map(Text, row.names),
            Text(done, style="green" if whole and row.done else ""),
            Text(str(row.running or ""), style="bold"),
            Text(str(row.failed or ""), style="red"),
            size(row.bytes),
            Text(row.note, style="yellow"),
        )
    return table
