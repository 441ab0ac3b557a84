"""Peak resident memory of each stage, over data sets of very different sizes.

One shard is made in earnest; the data set is as many links to it, so that nothing but the number of
samples differs. Each stage does its work for a few shards, or for the whole where it is about the
whole (plan, index, report). The report has a workspace of its own, in which the maps and scores of
that shard are written again and again under other keys: what SQL groups by them must grow.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect.logging import disable_run_logger
from rich.table import Table

from benchmarks.measure import apart
from harness.audits import AUDIT, audit_once
from harness.memory import status
from tasks.evaluate import evaluate
from tasks.explain import explain
from ttame_core import spec
from ttame_core.audits.record import Outcome, write_record
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.index import finish_dataset
from ttame_core.data.loader import load_batches, read_shard
from ttame_core.data.plan import ShardPlan, plan_shards
from ttame_core.data.shapes import CLASSES
from ttame_core.data.shards import write_shard
from ttame_core.lake import Lake, dataset_file
from ttame_core.lake.schemas import INDEX, SHARDS
from ttame_core.report.rendering import render
from ttame_core.stages.provenance import Provenance

PER_SHARD = 500
SAMPLES = (10_000, 100_000)  # ten times as many take ten times the time in plan and report
WORKED_ON = 2  # shards
COPIES = 10  # of the shard in a file of the report's workspace
FIRST = "test-000000"


def _dataset(name: str, **samples: int) -> spec.Dataset:
    source = {"kind": "shapes", "size": 32, **samples}
    return spec.Dataset(name=name, source=source, samples_per_shard=PER_SHARD)  # type: ignore[arg-type]


# As the one that is killed in `make faults`, with one full shard to test on.
SMALL = AUDIT.model_copy(update={"dataset": _dataset("drawn", train=8, val=8, test=PER_SHARD)})
# What is reported on: ten million samples of all would fill 70 GB.
EXPLAINERS, FAMILIES = ("gradcam", "random"), ("confidence", "localization")
REPORTED = SMALL.model_copy(
    update={
        "explainers": [e for e in SMALL.explainers if e.name in EXPLAINERS],
        "evaluation": SMALL.evaluation.model_copy(
            update={"metrics": [m for m in SMALL.evaluation.metrics if m.family in FAMILIES]}
        ),
    }
)


def _grown(template: Path, folder: Path, samples: int) -> None:
    """A workspace of `samples`: every file of the first shard once for each shard."""
    names = [_name(number) for number in range(samples // PER_SHARD)]
    for path in (p for p in template.rglob("*") if p.is_file()):
        place = folder / path.relative_to(template)
        place.parent.mkdir(parents=True, exist_ok=True)
        for name in names if FIRST in path.name else [FIRST]:
            os.link(path, place.with_name(path.name.replace(FIRST, name)))
    lake, old = Lake(folder), Lake(template)
    shards, index = (
        old.read_table(dataset_file("drawn", f"{name}.parquet")) for name in ("shards", "index")
    )
    (first,) = (row for row in shards.to_pylist() if row["shard"] == FIRST)
    rows = [row for row in shards.to_pylist() if row["shard"] != FIRST]
    rows += [{**first, "shard": name} for name in names]
    classes = old.metadata(dataset_file("drawn", "shards.parquet"))["classes"]
    # Links are not to be written through: these are written beside and renamed.
    lake.write_parquet(dataset_file("drawn", "shards.parquet"), rows, SHARDS, "x", classes=classes)
    with lake.create_parquet(dataset_file("drawn", "index.parquet"), INDEX, "x") as writer:
        for _ in names:
            for batch in index.to_batches():
                writer.write(batch)


def _scored(template: Path, folder: Path, samples: int) -> None:
    """A workspace of `samples` with keys of their own, to be reported on."""
    for path in (p for p in template.rglob("*") if p.is_file()):
        place = folder / path.relative_to(template)
        made = path.relative_to(template).parts[0] in ("maps", "scores")
        place.parent.mkdir(parents=True, exist_ok=True)
        if made and FIRST in path.name:
            table = pq.read_table(path, partitioning=None)
            for shard in range(samples // PER_SHARD // COPIES):
                numbers = range(shard * COPIES, (shard + 1) * COPIES)
                _repeat(table, place.with_name(f"{_name(shard)}.parquet"), numbers)
        elif path.name in ("index.parquet", "annotations.parquet"):
            table = pq.read_table(path, partitioning=None)
            if "shard" in table.column_names:
                table = table.filter(pc.equal(table["shard"], FIRST))
            _repeat(table, place, range(samples // PER_SHARD))
        elif not made:
            os.link(path, place)


def _repeat(table: pa.Table, place: Path, numbers: Sequence[int]) -> None:
    """Write a table once for each number, under keys and in shards of its own."""
    with pq.ParquetWriter(place, table.schema, compression="zstd") as writer:
        for first in range(0, len(numbers), COPIES):
            some = numbers[first : first + COPIES]
            rows = pa.concat_tables([table] * len(some))
            columns = dict(zip(rows.column_names, rows.columns, strict=True))
            before = pa.array(_key(number, "") for number in some).take(_each(len(table), some))
            columns["key"] = pc.binary_join_element_wise(before, rows["key"], "")
            if "shard" in columns:
                names = pa.array(_name(number // COPIES) for number in some)
                columns["shard"] = names.take(_each(len(table), some))
            writer.write_table(pa.table(columns, rows.schema))


def _each(rows: int, some: Sequence[int]) -> pa.Array:
    """The place of each of these, once for every row."""
    return pa.array(np.repeat(np.arange(len(some)), rows))


def _name(shard: int) -> str:
    return f"test-{shard:06d}"


def _key(number: int, key: str) -> str:
    return f"{number:06d}-{key}"


# ---- stages ----------------------------------------------------------------------------------


def _plan(folder: Path, samples: int) -> None:
    plan_shards(_dataset("planned", train=0, val=0, test=samples), Lake(folder))


def _write(folder: Path, samples: int) -> None:
    """Some of the shards that were planned just before, by another process."""
    lake, dataset = Lake(folder), _dataset("planned", train=0, val=0, test=samples)
    names = [_name(number) for number in range(WORKED_ON)]
    plan = ShardPlan("planned", CLASSES, tuple(range(len(CLASSES))), dict.fromkeys(names, ""), {})
    for name in names:
        write_shard(dataset, lake, plan, name)


def _index(folder: Path, samples: int) -> None:
    lake = Lake(folder)
    names = [name for name, _ in Provenance(SMALL, lake).shards("test")]
    finish_dataset(
        SMALL.dataset,
        lake,
        ShardPlan("drawn", CLASSES, tuple(range(len(CLASSES))), dict.fromkeys(names, ""), {}),
    )


def _train(folder: Path, samples: int) -> None:
    lake = Lake(folder)
    provenance = Provenance(SMALL, lake)
    view = Preprocessing((32, 32), 1.0, "center", "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    names = [name for name, _ in provenance.shards("test")]
    batches = load_batches(lake, "drawn", names, view, 32, 2, shuffle=(0, 0))
    for _ in islice(batches, WORKED_ON * PER_SHARD // 32):
        pass


def _explain(folder: Path, samples: int) -> None:
    _again(folder, "maps")


def _evaluate(folder: Path, samples: int) -> None:
    _again(folder, "scores")


def _again(folder: Path, what: str) -> None:
    """What a run over the whole audit does when some shards of it are to be made."""
    lake = Lake(folder)
    task = explain if what == "maps" else evaluate
    folders = lake.glob("maps/*/*/*" if what == "maps" else "scores/*/*/*/*")
    for shard, _ in Provenance(SMALL, lake).shards("test")[:WORKED_ON]:
        for made in folders:  # looking for a shard's files in all of them takes memory of its own
            lake.remove(f"{made}/{shard}.parquet")
        with disable_run_logger():
            task.fn(SMALL, str(folder), SMALL.backbones[0], [shard])


def _report(folder: Path, samples: int) -> None:
    def read_any(lake: Lake, dataset: str, shard: str) -> Iterator[dict[str, Any]]:
        first = int(shard.rpartition("-")[2]) * COPIES
        for raw in read_shard(lake, dataset, FIRST):
            for number in range(first, first + COPIES):
                yield {**raw, "__key__": _key(number, raw["__key__"])}

    with patch("ttame_core.report.pictures.read_shard", read_any):
        outcome = Outcome({}, datetime.now(UTC))
        write_record(Lake(folder / "scored"), REPORTED, outcome, render)


STAGES: dict[str, Callable[[Path, int], None]] = {
    "plan": _plan,
    "write shards": _write,
    "read for training": _train,
    "explain": _explain,
    "evaluate": _evaluate,
    "report": _report,
    "index": _index,
}


def _peak(stage: str, folder: Path, samples: int) -> float:
    """Peak resident memory of this process once it has done a stage, libraries included; MiB."""
    STAGES[stage](folder, samples)
    return status("VmHWM") / 2**20


def compare(sizes: Sequence[int] = SAMPLES, stages: Sequence[str] = ()) -> Table:
    """MiB of each stage at each size, and what the last tenfold adds."""
    stages = stages or list(STAGES)
    table = Table(title=f"peak resident memory, MiB; shards of {PER_SHARD} samples")
    for name in (
        "stage",
        *(f"{size:,}" for size in sizes),
        "last / the one before",
        "bytes/sample",
    ):
        table.add_column(name, justify="right" if name != "stage" else "left")
    found: dict[str, list[float]] = {stage: [] for stage in stages}
    with tempfile.TemporaryDirectory() as place:
        template, reported = Path(place) / "template", Path(place) / "reported"
        audit_once(SMALL, str(template), record=False)
        if "report" in stages:
            audit_once(REPORTED, str(reported), record=False)
        for size in sizes:
            folder = Path(place) / str(size)
            if set(stages) - {"plan", "report"}:
                _grown(template, folder, size)
            if "report" in stages:
                _scored(reported, folder / "scored", size)
            for stage in stages:
                found[stage].append(apart(_peak, stage, folder, size))
    for stage, peaks in found.items():
        grown = (peaks[-1] - peaks[-2]) * 2**20 / (sizes[-1] - sizes[-2])
        cells = [*(f"{p:.0f}" for p in peaks), f"{peaks[-1] / peaks[-2]:.2f}", f"{grown:.1f}"]
        table.add_row(stage, *cells)
    return table
