"""From a source to WebDataset shards.

`plan_shards` lists the inputs and says which shard each goes to; `write_shard` writes one shard;
`finish_dataset` gathers the index. A sample's shard and place follow from a hash of its path, so
that a new image touches one shard and leaves the others as they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds
from PIL import Image

from ttame_core import spec
from ttame_core.data.annotations import (
    BrokenAnnotation,
    Picture,
    annotation_files,
    clip,
    coco_boxes,
    counts,
    mask_boxes,
    read_mask,
    voc_boxes,
)
from ttame_core.data.images import BrokenImage, decode_image, stored
from ttame_core.data.shapes import CLASSES, draw_sample
from ttame_core.data.sources import Entry, list_entries, read
from ttame_core.errors import UserError, nearest
from ttame_core.lake import Lake, dataset_file, fingerprint, shard_rows, shard_tar
from ttame_core.lake.query.connection import in_enough_memory
from ttame_core.lake.schemas import ANNOTATIONS, BOX, INDEX, REJECTED, SHARDS
from ttame_core.lake.store import FINGERPRINT

MEMORY = "96MB"  # that DuckDB takes for a plan before it spills
AT_ONCE = 200_000  # rows of a plan that are sorted at once
FORMAT = 1  # raised when the code makes other shards from the same inputs
JPEG_QUALITY = 95

# What is listed, before it is ordered.
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
FILES = pa.schema([("path", pa.string()), ("location", pa.string()), ("stamp", pa.string())])
BOXES = pa.schema([("path", pa.string()), ("boxes", pa.list_(BOX)), ("stamp", pa.string())])

# Beside each tar, its commit mark: a row per sample, and one per thing rejected (with a reason).
SIDECAR = pa.schema(
    [*INDEX, ("boxes", pa.list_(BOX)), ("kind", pa.string()), ("reason", pa.string())]
)

GATHERED = {"index": INDEX, "annotations": ANNOTATIONS, "rejected": REJECTED}


@dataclass(frozen=True)
class ShardPlan:
    """Which shards a data set has. digests: of each shard's inputs, by its name."""

    dataset: str
    classes: tuple[str, ...]
    digests: dict[str, str]
    settings: dict[str, Any]

    @property
    def shards(self) -> list[str]:
        return sorted(self.digests)

    def part(self, shards: Iterable[str]) -> ShardPlan:
        """The plan of some of the shards."""
        return replace(self, digests={name: self.digests[name] for name in shards})

    def made_from(self, shard: str) -> dict[str, Any]:
        inputs = {"inputs": self.digests[shard], "classes": self.classes}
        return {"format": FORMAT, "settings": self.settings, **inputs}


@dataclass(frozen=True)
class Shard:
    """One shard of a data set. sha256: of its tar."""

    shard: str
    split: str
    samples: int
    sha256: str


# ---- planning --------------------------------------------------------------------------------


def plan_shards(dataset: spec.Dataset, lake: Lake) -> ShardPlan:
    """List the inputs of a data set and write plan.parquet, a row per input, by shard.

    Raises UserError where the source or the annotations cannot be listed, and for a label outside
    `dataset.classes`. Sorting and joining are DuckDB's and spill to disk, whatever the number.
    """
    with TemporaryDirectory() as spill, duckdb.connect(f"{spill}/plan.duckdb") as db:
        db.execute("SET enable_progress_bar = false")  # there is one of ours
        db.execute(f"SET memory_limit = '{MEMORY}'")
        _insert(db, "listed", ENTRIES, (_row(entry, dataset) for entry in list_entries(dataset)))
        _insert(db, "annotation_files", FILES, _annotation_files(dataset.annotations))
        _insert(db, "annotation_boxes", BOXES, _annotation_boxes(dataset.annotations))
        db.execute("SET VARIABLE per_shard = ?", [dataset.samples_per_shard])
        for statement in duckdb.extract_statements(_sql("plan")):
            _execute(db, statement)
        classes = _classes(db, dataset)
        parts = _parts(db)
        digests: dict[str, str] = {}
        for part in parts:
            digests |= _execute(
                db, "FROM shard_digests WHERE shard BETWEEN ? AND ? ORDER BY shard", part
            ).fetchall()
        plan = ShardPlan(dataset.name, classes, digests, _settings(dataset))
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
    """What a statement gives, `in_enough_memory`."""
    return in_enough_memory(db, lambda: db.execute(sql, list(parameters)))


def _parts(db: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """The first and the last shard of parts of the plan that are sorted in memory, in order.

    The first part begins with '', of what is not taken.
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
    """An entry with its key, its split and its rank in the data set's order."""
    digest = hashlib.sha256(entry.path.encode("utf-8", "surrogateescape")).hexdigest()
    drawn = hashlib.sha256(
        f"{dataset.seed}/{entry.path}".encode("utf-8", "surrogateescape")
    ).digest()
    return {
        **entry.__dict__,
        "split": entry.split or _split(int.from_bytes(drawn[8:16], "big") / 2**64, dataset.splits),
        "key": f"{_slug(entry.path)}-{digest[:12]}",
        "rank": int.from_bytes(drawn[:8], "big"),
    }


def _slug(path: str) -> str:
    """The file's stem in plain ASCII, without dots, which end a key in WebDataset."""
    stem = posixpath.splitext(posixpath.basename(path))[0]
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:40] or "image"


def _split(position: float, shares: dict[spec.Split, float]) -> str:
    """The split at `position` in [0, 1), the splits laid side by side by their shares."""
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return max(shares, key=lambda name: shares[name])


def _annotation_files(settings: spec.Annotations | None) -> Iterator[dict[str, Any]]:
    if settings is not None and settings.kind != "coco":
        for file in annotation_files(settings):
            yield file.__dict__


def _annotation_boxes(settings: spec.Annotations | None) -> Iterator[dict[str, Any]]:
    if settings is not None and settings.kind == "coco":
        for path, boxes, changed in coco_boxes(settings):
            yield {"path": path, "boxes": boxes, "stamp": changed}


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


def _classes(db: duckdb.DuckDBPyConnection, dataset: spec.Dataset) -> tuple[str, ...]:
    """Class names in label order: the spec's, else sorted, else the numbers that a list uses."""
    if dataset.source.kind == "shapes":
        return CLASSES
    found = [row[0] for row in db.execute("FROM labels ORDER BY label").fetchall()]
    numbered = dataset.source.kind != "folder" and bool(found) and all(f.isdigit() for f in found)
    if dataset.classes is None:
        count = max(map(int, found)) + 1 if numbered else 0
        return tuple(str(i) for i in range(count)) if numbered else tuple(sorted(found))
    if numbered and not set(found) <= set(dataset.classes):
        largest = max(map(int, found))
        if largest >= len(dataset.classes):
            raise UserError(
                f"data set {dataset.name} has the label {largest}, but `dataset.classes` names "
                f"{len(dataset.classes)} classes, 0 to {len(dataset.classes) - 1}"
            )
        return tuple(dataset.classes)
    for label in found:
        if label not in dataset.classes:
            example = db.execute("SELECT path FROM listed WHERE label = ?", [label]).fetchone()
            raise UserError(
                f"data set {dataset.name} has the class {label} ({example[0] if example else ''}), "
                "which `dataset.classes` does not name." + nearest(label, dataset.classes)
            )
    return tuple(dataset.classes)


def _settings(dataset: spec.Dataset) -> dict[str, Any]:
    """What shapes a shard beside its inputs; not where they lie."""
    return {
        "source": dataset.source.model_dump(include={"kind", "size", "seed"}),
        "annotations": dataset.annotations.model_dump(exclude={"path"})
        if dataset.annotations
        else None,
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


# ---- writing ---------------------------------------------------------------------------------


def write_shard(dataset: spec.Dataset, lake: Lake, plan: ShardPlan, shard: str) -> bool:
    """Write a shard's tar and, as its commit mark, its sidecar; False where they are there.

    The same inputs give the same bytes. An input that cannot be used becomes a row of rejected.
    """
    tar, sidecar = shard_tar(dataset.name, shard), shard_rows(dataset.name, shard)
    if lake.exists(tar) and lake.is_current(sidecar, plan.made_from(shard)):
        return False
    planned = dataset_file(dataset.name, "plan.parquet")
    of_plan = lake.metadata(planned).get(FINGERPRINT.decode())
    rows: list[dict[str, Any]] = []
    with lake.create(tar) as path, path.open("wb") as stream:
        with wds.TarWriter(stream, encoder=False, mtime=0, user="", group="") as writer:
            for entry in _planned(lake, dataset.name, shard):
                made = _shapes_sample if dataset.source.kind == "shapes" else _sample
                sample, found = made(entry, dataset, plan.classes)
                rows += [{**row, "shard": shard, "split": entry["split"]} for row in found]
                if sample:
                    writer.write({"__key__": entry["key"], **sample})
        stream.flush()
        sha256 = _sha256(path)
        if lake.metadata(planned).get(FINGERPRINT.decode()) != of_plan:
            # By a later run, which has its own workers: this tar must not replace theirs.
            raise RuntimeError(
                f"data set {dataset.name} was planned anew while {shard} was written"
            )
    samples = sum(not row.get("reason") for row in rows)
    lake.write_parquet(
        sidecar, rows, SIDECAR, plan.made_from(shard), sha256=sha256, samples=str(samples)
    )
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _planned(lake: Lake, dataset: str, shard: str) -> Iterator[dict[str, Any]]:
    """The plan's rows of one shard, in order."""
    with lake.open(dataset_file(dataset, "plan.parquet")) as stream:
        table = pq.read_table(stream, filters=[("shard", "=", shard)])
    yield from table.to_pylist()


def _shapes_sample(
    entry: dict[str, Any], dataset: spec.Dataset, classes: tuple[str, ...]
) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """A drawn sample: its members in the tar, and its row."""
    source = dataset.source
    assert isinstance(source, spec.ShapesSource)
    split, _, index = entry["path"].partition("/")
    drawn = draw_sample(split, int(index), source.seed, source.size)
    data = _jpeg(Image.fromarray(drawn.image))
    boxes = mask_boxes(drawn.mask, entry["label"])
    about = _about(entry, drawn.label, entry["label"], (source.size, source.size), boxes)
    return _members("jpg", data, about, drawn.mask), [_index_row(entry, data, about)]


def _sample(
    entry: dict[str, Any], dataset: spec.Dataset, classes: tuple[str, ...]
) -> tuple[dict[str, bytes] | None, list[dict[str, Any]]]:
    """A sample's members in the tar, None where it is rejected; its row, and what was rejected."""
    try:
        data = read(entry["location"])
        image = decode_image(data, entry["path"])
        stored_size, orientation = stored(data, entry["path"])
    except OSError as error:
        return None, [_rejected("image", entry["path"], error.strerror or str(error))]
    except BrokenImage as broken:
        return None, [_rejected("image", entry["path"], broken.reason)]
    label = entry["label"]
    index = classes.index(label) if label in classes else int(label)
    picture = Picture(image.size, stored_size, orientation)
    boxes, mask, problems = _annotate(entry, classes[index], dataset.annotations, picture)
    extension = posixpath.splitext(entry["path"])[1][1:].lower()
    scale = (dataset.max_size or max(image.size)) / max(image.size)
    if scale < 1:
        image, boxes, mask = _shrunk(image, boxes, mask, scale)
        extension, data = "jpg", _jpeg(image)
    about = _about(entry, index, classes[index], image.size, boxes)
    return _members(extension, data, about, mask), [_index_row(entry, data, about), *problems]


def _annotate(
    entry: dict[str, Any], label: str, settings: spec.Annotations | None, picture: Picture
) -> tuple[list[dict[str, Any]], np.ndarray | None, list[dict[str, Any]]]:
    """Boxes, mask and problems of one picture's annotation."""
    boxes, mask, place = entry["boxes"] or [], None, entry["annotation"]
    try:
        if place and isinstance(settings, spec.VocAnnotations):
            boxes = voc_boxes(read(place), picture)
        elif place and isinstance(settings, spec.MaskAnnotations):
            mask = read_mask(read(place), picture)
            boxes = mask_boxes(mask, label)
    except (BrokenAnnotation, OSError) as error:
        return [], None, [_rejected("annotation", entry["annotation_path"], str(error))]
    kept, problems = [], []
    for box in boxes:
        if not counts(box, label, settings):
            continue
        try:
            kept.append(clip(box, picture.size))
        except BrokenAnnotation as error:
            where = entry["annotation_path"] or entry["path"]
            problems.append(_rejected("annotation", where, str(error)))
    return kept, mask, problems


def _shrunk(
    image: Image.Image, boxes: list[dict[str, Any]], mask: np.ndarray | None, scale: float
) -> tuple[Image.Image, list[dict[str, Any]], np.ndarray | None]:
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    factors = {"x": size[0] / image.width, "y": size[1] / image.height}
    moved = [{k: v if k == "name" else v * factors[k[0]] for k, v in box.items()} for box in boxes]
    if mask is not None:
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return image.resize(size, Image.Resampling.LANCZOS), moved, mask


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _about(
    entry: dict[str, Any], index: int, label: str, size: tuple[int, int], boxes: list[Any]
) -> dict[str, Any]:
    sides = {"width": size[0], "height": size[1]}
    return {"label": index, "class": label, "path": entry["path"], **sides, "boxes": boxes}


def _members(
    extension: str, data: bytes, about: dict[str, Any], mask: np.ndarray | None
) -> dict[str, bytes]:
    members = {extension: data, "json": json.dumps(about, ensure_ascii=False).encode()}
    if mask is not None:
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, "PNG")
        members["mask.png"] = buffer.getvalue()
    return members


def _index_row(entry: dict[str, Any], data: bytes, about: dict[str, Any]) -> dict[str, Any]:
    return {"key": entry["key"], "sha256": hashlib.sha256(data).hexdigest(), **about}


def _rejected(kind: str, path: str, reason: str) -> dict[str, Any]:
    return {"kind": kind, "path": path, "reason": reason}


# ---- gathering -------------------------------------------------------------------------------


def finish_dataset(dataset: spec.Dataset, lake: Lake, plan: ShardPlan) -> None:
    """Gather the shards' sidecars into the data set's index, and remove what no shard needs.

    shards.parquet comes last: it says that the data set is whole. Raises UserError where not one
    image could be taken.
    """
    sidecars = [shard_rows(dataset.name, name) for name in plan.shards]
    shards, fingerprints = [], {}
    for name, found in zip(plan.shards, lake.metadata_of(sidecars), strict=True):
        split, samples = name.rsplit("-", 1)[0], int(found["samples"])
        shards.append(Shard(name, split, samples, found["sha256"]))
        fingerprints[name] = found[FINGERPRINT.decode()]
    if not any(shard.samples for shard in shards):
        raise UserError(
            f"data set {dataset.name} has no image that can be used" + _first_reasons(lake, plan)
        )
    planned = lake.metadata(dataset_file(dataset.name, "plan.parquet"))[FINGERPRINT.decode()]
    made_from = {"format": FORMAT, "shards": fingerprint(fingerprints), "plan": planned}
    path = dataset_file(dataset.name, "shards.parquet")
    gathered = [dataset_file(dataset.name, f"{name}.parquet") for name in GATHERED]
    if not all(lake.is_current(place, made_from) for place in (path, *gathered)):
        _gather(lake, plan, made_from)
        rows = map(vars, shards)
        lake.write_parquet(path, rows, SHARDS, made_from, classes=json.dumps(plan.classes))
    _remove_stale(lake, plan)


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
        rejected.write(_batch(list(_planned(lake, plan.dataset, "")), REJECTED))
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
    rows = list(_planned(lake, plan.dataset, ""))
    for shard in plan.shards:
        rows += lake.read_table(shard_rows(plan.dataset, shard), ["path", "reason"]).to_pylist()
        if len(rows) >= count:
            break
    return ": " + "; ".join(f"{r['path']}: {r['reason']}" for r in rows[:count]) if rows else ""


def _remove_stale(lake: Lake, plan: ShardPlan) -> None:
    """Remove shards that the data set no longer has, and the maps and scores of them."""
    known = set(plan.digests)
    for pattern in (
        f"datasets/{plan.dataset}/shards",
        f"maps/dataset={plan.dataset}/*/*",
        f"scores/*/dataset={plan.dataset}/*/*",
    ):
        for folder in lake.glob(pattern):  # one after another: there may be a million files in all
            for name in lake.entries(folder):
                # A dot is of one that is written now.
                if name.removeprefix(".").split(".")[0] not in known:
                    lake.remove(f"{folder}/{name}")


# ---- reading ---------------------------------------------------------------------------------


def count_current(lake: Lake, plan: ShardPlan) -> int:
    """How many of a plan's shards are in the lake as planned; 0 where the index is not."""
    if not lake.exists(dataset_file(plan.dataset, "shards.parquet")):
        return 0
    sidecars = [(shard_rows(plan.dataset, name), plan.made_from(name)) for name in plan.shards]
    return sum(lake.are_current(sidecars))


def load_shards(lake: Lake, name: str, split: str | None = None) -> list[Shard]:
    """The shards of a data set, or of one of its splits. Raises UserError where it is not there."""
    rows = lake.read_table(_shards_file(lake, name)).to_pylist()
    return [Shard(**row) for row in rows if split in (None, row["split"])]


def load_classes(lake: Lake, name: str) -> list[str]:
    """Class names of a data set, in label order."""
    return json.loads(lake.metadata(_shards_file(lake, name))["classes"])


def _shards_file(lake: Lake, name: str) -> str:
    path = dataset_file(name, "shards.parquet")
    if not lake.exists(path):
        raise UserError(f"data set {name} is not in the workspace {lake}: run `ttame shard` first")
    return path
