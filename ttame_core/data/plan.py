"""The plan of a data set's shards: which shard each input goes to.

The shard of a sample and its position there follow from a hash of its path, so that a new image
changes one shard and no other.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import islice
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ttame_core import spec
from ttame_core.data.annotations import open_annotations
from ttame_core.data.annotations.base import Annotations, Listed
from ttame_core.data.images import DECODERS
from ttame_core.data.labels import alike_names, class_of, classes_of, composed, number_of
from ttame_core.data.sources import open_source
from ttame_core.data.sources.base import Entry, Source
from ttame_core.errors import UserError, nearest
from ttame_core.lake import Lake, dataset_file, fingerprint
from ttame_core.lake.query.connection import in_enough_memory
from ttame_core.storage import temporary_folder

MEMORY = "96MB"  # DuckDB's memory for a plan, beyond which it spills to disk
AT_ONCE = 200_000  # rows of a plan that are sorted at once
FORMAT = 3  # increase it when the code makes other shards from the same inputs

# The inputs as listed, before they are assigned to shards.
ENTRIES = pa.schema(
    [
        ("path", pa.string()),
        ("location", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("stamp", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("key", pa.string()),
        ("rank", pa.uint64()),
    ]
)
LISTED = pa.schema(
    [
        ("name", pa.string()),
        ("bare", pa.string()),
        ("location", pa.string()),
        ("content", pa.string()),
        ("stamp", pa.string()),
        ("split", pa.string()),
        ("reason", pa.string()),
        ("labels", pa.string()),
    ]
)


@dataclass(frozen=True)
class ShardPlan:
    """The shards that a data set has.

    Attributes:
        dataset: name of the data set.
        classes: names of the classes, in label order.
        present: labels that inputs have, sorted; not all classes need have images.
        several: whether an input has more than one label.
        digests: a hash of the inputs of each shard, by the shard's name.
        settings: settings on which the content of shards depends.
        remarks: sentences on how the source was understood.
    """

    dataset: str
    classes: tuple[str, ...]
    present: tuple[int, ...]
    digests: dict[str, str]
    settings: dict[str, Any]
    remarks: tuple[str, ...] = ()
    several: bool = False

    @property
    def shards(self) -> list[str]:
        """The names of the shards, sorted."""
        return sorted(self.digests)

    def part(self, shards: Iterable[str]) -> ShardPlan:
        """Return the plan of some of the shards."""
        return replace(self, digests={name: self.digests[name] for name in shards})

    def made_from(self, shard: str) -> dict[str, Any]:
        """Return a description of what a shard is made from, for its fingerprint."""
        inputs = {"inputs": self.digests[shard], "classes": self.classes}
        plugins = {"decoders": ["HEIF"]} if "HEIF" in DECODERS else {}  # what was rejected without
        return {"format": FORMAT, "settings": self.settings, **inputs, **plugins}


def plan_shards(dataset: spec.Dataset, lake: Lake) -> ShardPlan:
    """List the inputs of a data set and write plan.parquet, a row per input, by shard.

    DuckDB sorts and joins, and spills to disk where there are many inputs.

    Args:
        dataset: the section of a spec.
        lake: the workspace.

    Raises:
        UserError: the source or the annotations cannot be listed, or a label is not in
            `dataset.classes`.
    """
    source, annotations = open_source(dataset.source), open_annotations(dataset.annotations)
    with temporary_folder() as spill, duckdb.connect(f"{spill}/plan.duckdb") as db:
        db.execute("SET enable_progress_bar = false")  # ttame shows its own
        db.execute(f"SET memory_limit = '{MEMORY}'")
        _insert(db, "listed", ENTRIES, (_row(entry, dataset) for entry in source.entries()))
        _insert(db, "annotated", LISTED, _annotated(annotations))
        db.execute("SET VARIABLE per_shard = ?", [dataset.samples_per_shard])
        for statement in duckdb.extract_statements(_sql("plan")):
            _execute(db, statement)
        labels = [row[0] for row in db.execute("FROM labels ORDER BY label").fetchall()]
        classes = (not dataset.classes and source.classes()) or _classes(db, dataset, labels)
        classes = tuple(map(composed, classes))
        numbers = {class_of(label, classes) for label in labels}
        present = tuple(sorted(number for number in numbers if number is not None))
        parts = _parts(db)
        digests: dict[str, str] = {}
        for part in parts:
            digests |= _execute(
                db, "FROM shard_digests WHERE shard BETWEEN ? AND ? ORDER BY shard", part
            ).fetchall()
        settings, remarks = _settings(dataset, source, annotations), tuple(source.remarks)
        remarks += tuple(
            f"the classes {', '.join(map(repr, alike))} are told apart, though they differ in "
            "case, spaces or unseen characters alone: correct their labels if they are one class"
            for alike in alike_names(classes)
        )
        several = db.execute("FROM plan WHERE contains(label, chr(31)) LIMIT 1").fetchall()
        plan = ShardPlan(dataset.name, classes, present, digests, settings, remarks, bool(several))
        path = dataset_file(dataset.name, "plan.parquet")
        made_from = _of_plan(plan, db)
        if not lake.is_current(path, made_from):
            schema = db.sql("FROM plan LIMIT 0").to_arrow_table().schema
            with lake.create_parquet(path, schema, made_from) as rows:
                for part in parts:
                    _execute(db, _PART, part)
                    for batch in db.sql("FROM part").to_arrow_reader(10_000):
                        rows.write(batch)
    return plan


_PART = """CREATE OR REPLACE TABLE part AS
FROM plan WHERE shard BETWEEN ? AND ? ORDER BY shard, rank, path"""


def _execute(
    db: duckdb.DuckDBPyConnection, sql: str | duckdb.Statement, parameters: Sequence[str] = ()
) -> duckdb.DuckDBPyConnection:
    """Execute a statement of SQL, with more memory where it needs more (`in_enough_memory`)."""
    return in_enough_memory(db, lambda: db.execute(sql, list(parameters)))


def _parts(db: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """Divide the plan into parts that fit into memory, and return their first and last shards.

    The first part begins with the shard '', which stands for rejected inputs.
    """
    parts: list[tuple[str, str]] = []
    held = AT_ONCE
    counts = db.execute("SELECT shard, count(*) FROM plan GROUP BY shard ORDER BY shard")
    for shard, count in counts.fetchall():
        if held + count > AT_ONCE:
            parts.append((shard, shard))
            held = 0
        parts[-1] = (parts[-1][0], shard)
        held += count
    return parts


def _row(entry: Entry, dataset: spec.Dataset) -> dict[str, Any]:
    """Return the row of an entry, with its key, its split and its rank in the data set's order."""
    digest = hashlib.sha256(entry.path.encode("utf-8", "surrogateescape")).hexdigest()
    drawn = hashlib.sha256(
        f"{dataset.seed}/{entry.path}".encode("utf-8", "surrogateescape")
    ).digest()
    return {
        **entry.__dict__,
        "label": entry.label and composed(entry.label),
        "split": entry.split or _split(int.from_bytes(drawn[8:16], "big") / 2**64, dataset.splits),
        "key": f"{_slug(entry.path)}-{digest[:12]}",
        "rank": int.from_bytes(drawn[:8], "big"),
    }


def _annotated(annotations: Annotations | None) -> Iterator[dict[str, Any]]:
    """Yield a row for each annotation."""
    for listed in annotations.listed() if annotations else ():
        yield {**vars(listed), "labels": listed.labels and composed(listed.labels)}


def _slug(path: str) -> str:
    """Return a file's stem in ASCII without dots, at which WebDataset would end a key."""
    stem = posixpath.splitext(posixpath.basename(path))[0]
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:40] or "image"


def _split(position: float, shares: dict[spec.Split, float]) -> str:
    """Return the split at a position in [0, 1), which the splits divide by their shares."""
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return max(shares, key=lambda name: shares[name])


def _insert(
    db: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, rows: Iterable[dict[str, Any]]
) -> None:
    batch = schema.empty_table()
    db.register("batch", batch)
    db.execute(f"CREATE TABLE {table} AS SELECT * FROM batch")
    iterator = iter(rows)
    while chunk := list(islice(iterator, 10_000)):
        db.register("batch", pa.Table.from_pylist(chunk, schema))
        db.execute(f"INSERT INTO {table} SELECT * FROM batch")


def _sql(name: str) -> str:
    return resources.files("ttame_core.data").joinpath(f"{name}.sql").read_text()


def _classes(
    db: duckdb.DuckDBPyConnection, dataset: spec.Dataset, labels: Sequence[str]
) -> tuple[str, ...]:
    """Return the names of the classes in label order: the spec's, or the labels'."""
    if dataset.classes is None:
        return classes_of(labels)
    classes = tuple(map(composed, dataset.classes))
    numbered = all(number_of(label) is not None for label in labels)
    for label in labels:
        if label in classes or (numbered and class_of(label, classes) is not None):
            continue
        if numbered:
            raise UserError(
                f"data set {dataset.name} has the label {label}, but `dataset.classes` names "
                f"{len(classes)} classes, 0 to {len(classes) - 1}"
            )
        having = "SELECT path FROM plan WHERE list_contains(string_split(label, chr(31)), ?)"
        example = db.execute(having, [label]).fetchone()
        raise UserError(
            f"data set {dataset.name} has the class {label} ({example[0] if example else ''}), "
            "which `dataset.classes` does not name." + nearest(label, classes)
        )
    return classes


def _settings(
    dataset: spec.Dataset, source: Source, annotations: Annotations | None
) -> dict[str, Any]:
    """Return the settings on which the content of shards depends, without the inputs' paths."""
    return {
        "source": {"kind": source.name} | source.settings.model_dump(include=set(source.drawn_by)),
        "annotations": annotations
        and {"kind": annotations.name, "version": annotations.version}
        | annotations.settings.model_dump(exclude={"path"}),
        "max_size": dataset.max_size,
        "seed": dataset.seed,
    }


def _of_plan(plan: ShardPlan, db: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    lines, rejected = hashlib.md5(usedforsecurity=False), None
    for batch in db.sql("FROM rejected_lines").to_arrow_reader(10_000):
        lines.update(("" if rejected is None else "\n").encode())
        lines.update("\n".join(batch["line"].to_pylist()).encode())
        rejected = lines.hexdigest()
    made = {"format": FORMAT, "settings": plan.settings, "classes": plan.classes}
    return {**made, "shards": fingerprint(plan.digests), "rejected": rejected}


def planned_rows(lake: Lake, dataset: str, shard: str) -> list[dict[str, Any]]:
    """Return a shard's rows of the plan, in order; those of the shard '' are rejected inputs."""
    with lake.open(dataset_file(dataset, "plan.parquet")) as stream:
        table = pq.read_table(stream, filters=[("shard", "=", shard)])
    return table.to_pylist()


def listed_of(row: dict[str, Any]) -> Listed:
    """Return the annotation of a picture from its row in the plan, which must have one."""
    name, location = row["annotation_path"], row["annotation"]
    return Listed(name, "", location, row["content"], row["annotation_stamp"])
