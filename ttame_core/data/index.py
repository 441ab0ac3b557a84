"""The index of a data set, merged from the rows of its shards, for all later stages."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ttame_core import spec
from ttame_core.data.plan import FORMAT, ShardPlan, planned_rows
from ttame_core.errors import UserError
from ttame_core.lake import Lake, dataset_file, fingerprint, shard_rows
from ttame_core.lake.schemas import ANNOTATIONS, INDEX, REJECTED, SHARDS
from ttame_core.lake.store import FINGERPRINT, MADE_FROM

OTHER = {"file": "other file"}  # words for kinds of rejected inputs
SHARD_FILE = re.compile(r"(?:train|val|test)-\d+\.parquet")
GATHERED = {"index": INDEX, "annotations": ANNOTATIONS, "rejected": REJECTED}


@dataclass(frozen=True)
class Shard:
    """One shard of a data set; `sha256` is the hash of its tar file."""

    shard: str
    split: str
    samples: int
    sha256: str


def finish_dataset(dataset: spec.Dataset, lake: Lake, plan: ShardPlan) -> None:
    """Merge the rows of all shards into the data set's index, and remove files of older shards.

    shards.parquet is written last, so the data set is whole where it exists.

    Args:
        dataset: the section of a spec.
        lake: the workspace.
        plan: the plan of all shards.

    Raises:
        UserError: no image could be used.
    """
    shards, made_from = _written(lake, plan)
    if not any(shard.samples for shard in shards):
        raise UserError(
            f"data set {dataset.name} has no image that can be used" + _first_reasons(lake, plan)
        )
    if not _is_gathered(lake, plan, made_from):
        _remove_outdated(lake, dataset.name, shards)
        _gather(lake, plan, made_from)
        rows = map(vars, shards)
        told = {"classes": json.dumps(plan.classes), "present": json.dumps(plan.present)}
        path = dataset_file(dataset.name, "shards.parquet")
        lake.write_parquet(path, rows, SHARDS, made_from, **told)
    _remove_stale(lake, plan)


def is_finished(lake: Lake, plan: ShardPlan) -> bool:
    """Say whether the lake holds all shards and indexes of a plan that was just written there."""
    if count_current(lake, plan) < len(plan.shards):
        return False
    return _is_gathered(lake, plan, _written(lake, plan)[1])


def _written(lake: Lake, plan: ShardPlan) -> tuple[list[Shard], dict[str, Any]]:
    """Return the shards of a plan, all written, and what the index of them is made from."""
    shards, fingerprints = [], {}
    sidecars = [shard_rows(plan.dataset, name) for name in plan.shards]
    for name, about in zip(plan.shards, lake.metadata_of(sidecars), strict=True):
        split, samples = name.rsplit("-", 1)[0], int(about["samples"])
        shards.append(Shard(name, split, samples, about["sha256"]))
        fingerprints[name] = about[FINGERPRINT.decode()], about["sha256"]
    planned = lake.metadata(dataset_file(plan.dataset, "plan.parquet"))[FINGERPRINT.decode()]
    return shards, {"format": FORMAT, "shards": fingerprint(fingerprints), "plan": planned}


def _is_gathered(lake: Lake, plan: ShardPlan, made_from: Any) -> bool:
    """Say whether the files of the index are made from these shards."""
    names = "shards", *GATHERED
    paths = [dataset_file(plan.dataset, f"{name}.parquet") for name in names]
    return all(lake.is_current(path, made_from) for path in paths)


def _gather(lake: Lake, plan: ShardPlan, made_from: Any) -> None:
    with ExitStack() as files:
        index, annotations, rejected = (
            files.enter_context(
                lake.create_parquet(
                    dataset_file(plan.dataset, f"{name}.parquet"), schema, made_from
                )
            )
            for name, schema in GATHERED.items()
        )
        rejected.write(_batch(planned_rows(lake, plan.dataset, ""), REJECTED))
        for shard in plan.shards:
            rows = lake.read_table(shard_rows(plan.dataset, shard)).to_pylist()
            taken = [row for row in rows if not row["reason"]]
            index.write(_batch(taken, INDEX))
            boxes = [
                {"key": row["key"], "object": number, **box}
                for row in taken
                for number, box in enumerate(row["boxes"])
            ]
            annotations.write(_batch(boxes, ANNOTATIONS))
            rejected.write(_batch([row for row in rows if row["reason"]], REJECTED))


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    chosen = [{name: row[name] for name in schema.names} for row in rows]
    return pa.RecordBatch.from_pylist(chosen, schema=schema)


def _first_reasons(lake: Lake, plan: ShardPlan, count: int = 3) -> str:
    rows = planned_rows(lake, plan.dataset, "")
    for shard in plan.shards:
        rows += lake.read_table(shard_rows(plan.dataset, shard), ["path", "reason"]).to_pylist()
        if len(rows) >= count:
            break
    return ": " + "; ".join(f"{r['path']}: {r['reason']}" for r in rows[:count]) if rows else ""


def _remove_stale(lake: Lake, plan: ShardPlan) -> None:
    """Remove shards that the plan does not have, with their maps and scores.

    Other things in their folders stay: files of other names or without a fingerprint of ttame, and
    whatever a link leads to.
    """
    known = set(plan.digests)
    shards = f"datasets/{plan.dataset}/shards"
    maps, scores = f"maps/dataset={plan.dataset}/*/*", f"scores/*/dataset={plan.dataset}/*/*"
    for pattern in (shards, maps, scores):
        for folder in lake.glob(pattern):  # one at a time: together they may hold a million files
            if lake.link_to(folder):
                continue
            stale = [
                f"{folder}/{name}"
                for name, about in lake.entries(folder).items()
                if SHARD_FILE.fullmatch(name) and about["type"] == "file"
                if name.removesuffix(".parquet") not in known
            ]
            for path, about in zip(stale, lake.metadata_of(stale), strict=True):
                if FINGERPRINT.decode() in about:
                    if folder == shards:
                        lake.remove(path.removesuffix(".parquet") + ".tar")
                    lake.remove(path)


def _remove_outdated(lake: Lake, dataset: str, shards: Sequence[Shard]) -> None:
    """Remove maps of shards that hold other images now, and the scores of these maps.

    The next audit replaces the maps of its own backbones, but would leave those of other backbones
    as they are.
    """
    for folder in lake.glob(f"maps/dataset={dataset}/*/*"):
        if lake.link_to(folder):
            continue
        there = lake.entries(folder)
        files = {f"{folder}/{s.shard}.parquet": s for s in shards if f"{s.shard}.parquet" in there}
        for (path, shard), about in zip(files.items(), lake.metadata_of(list(files)), strict=True):
            made_from = json.loads(about.get(MADE_FROM.decode(), "null"))
            if isinstance(made_from, dict) and made_from.get("shard") not in (None, shard.sha256):
                for scores in lake.glob(f"scores/*/{path.removeprefix('maps/')}"):
                    lake.remove(scores)
                lake.remove(path)


def count_current(lake: Lake, plan: ShardPlan) -> int:
    """Return how many of a plan's shards the lake holds as planned; 0 if the index is outdated."""
    if not lake.exists(dataset_file(plan.dataset, "shards.parquet")):
        return 0
    sidecars = [(shard_rows(plan.dataset, name), plan.made_from(name)) for name in plan.shards]
    return sum(lake.are_current(sidecars))


def load_shards(lake: Lake, name: str, split: str | None = None) -> list[Shard]:
    """Return the shards of a data set, or of one of its splits.

    Raises:
        UserError: the data set is not in the lake.
    """
    rows = lake.read_table(_shards_file(lake, name)).to_pylist()
    return [Shard(**row) for row in rows if split in (None, row["split"])]


def count_rejected(lake: Lake, name: str) -> dict[str, int]:
    """Return how many inputs of a data set were rejected, by kind: image, annotation, folder, file.

    Args:
        lake: the workspace.
        name: name of the data set.
    """
    path = dataset_file(name, "rejected.parquet")
    if not lake.exists(path):
        return {}
    return dict(sorted(Counter(lake.read_table(path, ["kind"])["kind"].to_pylist()).items()))


def left_out(rejected: Mapping[str, int]) -> str:
    """Say in a sentence how many inputs were rejected; empty where none was.

    Args:
        rejected: number of inputs by kind.
    """
    if not rejected:
        return ""
    counts = [
        f"{count:,} {OTHER.get(kind, kind)}{'' if count == 1 else 's'}"
        for kind, count in sorted(rejected.items(), key=lambda pair: (pair[0] == "file", pair[0]))
    ]
    more = f"{', '.join(counts[:-1])} and {counts[-1]}" if len(counts) > 1 else counts[0]
    was = "was" if sum(rejected.values()) == 1 else "were"
    return f'{more} {was} left out: ttame query "FROM rejected" says why.'


def load_classes(lake: Lake, name: str) -> list[str]:
    """Return the names of a data set's classes, in label order."""
    return json.loads(lake.metadata(_shards_file(lake, name))["classes"])


def load_present(lake: Lake, name: str) -> list[int]:
    """Return the labels that a data set's images have, sorted.

    A file of an older version of ttame does not list them; then the result is all labels.
    """
    metadata = lake.metadata(_shards_file(lake, name))
    return json.loads(metadata.get("present", "null")) or [*range(len(load_classes(lake, name)))]


def _shards_file(lake: Lake, name: str) -> str:
    path = dataset_file(name, "shards.parquet")
    if not lake.exists(path):
        raise UserError(f"data set {name} is not in the workspace {lake}: run `ttame shard` first")
    return path
