"""Writing of one shard of a data set: a WebDataset tar, and beside it a file with its rows."""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import webdataset as wds
from PIL import Image

from ttame_core import spec
from ttame_core.data.annotations import open_annotations
from ttame_core.data.annotations.base import (
    CORNERS,
    MOST_OBJECTS,
    Annotations,
    BrokenAnnotation,
    clip,
    mask_boxes,
)
from ttame_core.data.decoding import apart
from ttame_core.data.images import BrokenImage, Picture, examine, is_image, to_jpeg
from ttame_core.data.labels import class_of, composed, each_label
from ttame_core.data.plan import ShardPlan, listed_of, planned_rows
from ttame_core.data.sources import open_source
from ttame_core.data.sources.base import Drawn
from ttame_core.data.sources.containers import WHERE, stays
from ttame_core.lake import Lake, dataset_file, shard_rows, shard_tar
from ttame_core.lake.schemas import BOX, INDEX
from ttame_core.lake.store import FINGERPRINT

# The rows of a shard, one per sample and one per rejected input (with a reason). Their file is
# written after the tar, so that the shard is whole where the file exists.
SIDECAR = pa.schema(
    [*INDEX, ("boxes", pa.list_(BOX)), ("kind", pa.string()), ("reason", pa.string())]
)


def write_shard(dataset: spec.Dataset, lake: Lake, plan: ShardPlan, shard: str) -> bool:
    """Write a shard's tar, and after it the file with its rows.

    The same inputs give the same bytes. An input that cannot be used becomes a rejected row.

    Args:
        dataset: the section of a spec.
        lake: the workspace.
        plan: plan that has the shard.
        shard: name of the shard.

    Returns:
        False where the shard was there already, made from the same inputs.
    """
    tar, sidecar = shard_tar(dataset.name, shard), shard_rows(dataset.name, shard)
    if lake.exists(tar) and lake.is_current(sidecar, plan.made_from(shard)):
        return False
    planned = dataset_file(dataset.name, "plan.parquet")
    of_plan = lake.metadata(planned).get(FINGERPRINT.decode())
    source, annotations = open_source(dataset.source), open_annotations(dataset.annotations)
    inputs = planned_rows(lake, dataset.name, shard)
    rows: list[dict[str, Any]] = []
    with (
        source.reading(inputs) as read,
        lake.create(tar) as path,
        path.open("wb") as stream,
    ):
        with wds.TarWriter(stream, encoder=False, mtime=0, user="", group="") as writer:
            sample: dict[str, bytes] | None
            for entry in inputs:
                if drawn := source.draw(entry["path"]):
                    sample, sample_rows = _drawn_sample(entry, drawn, plan.classes)
                else:
                    sample, sample_rows = _read_sample(
                        entry, read, annotations, dataset.max_size, plan.classes
                    )
                rows += [{**row, "shard": shard, "split": entry["split"]} for row in sample_rows]
                if sample:
                    writer.write({"__key__": entry["key"], **sample})
        stream.flush()
        sha256 = _sha256(path)
        if lake.metadata(planned).get(FINGERPRINT.decode()) != of_plan:
            # A later run planned it, and its workers write the shard: do not replace their tar.
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


def _drawn_sample(
    entry: dict[str, Any], drawn: Drawn, classes: tuple[str, ...]
) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Return a drawn sample's members in the tar, and its row."""
    labels, mask = [classes.index(label) for label in each_label(entry["label"])], drawn.mask
    data = to_jpeg(drawn.image)
    boxes = [] if mask is None else mask_boxes(mask, classes[labels[0]])
    for box, name in zip(boxes, drawn.names, strict=False):
        box |= {"name": name, "label": classes.index(name)}
    about = _about(entry, labels, classes, drawn.image.size, boxes)
    return _members("jpg", data, about, mask), [_index_row(entry, data, about)]


def _read_sample(
    entry: dict[str, Any],
    read: Callable[[str], bytes],
    annotations: Annotations | None,
    max_size: int | None,
    classes: tuple[str, ...],
) -> tuple[dict[str, bytes] | None, list[dict[str, Any]]]:
    """Return a sample's members in the tar (None if rejected), and its rows: index and rejected."""
    try:
        data = read(entry["location"])
    except OSError as error:
        return None, [_rejected("image", entry["path"], error.strerror or str(error))]
    try:
        image = apart(examine, data, entry["path"], max_size)
    except BrokenImage as broken:
        return None, [_rejected("image", entry["path"], broken.reason)]
    labels = [class_of(label, classes) for label in each_label(entry["label"])]
    own = {label: classes[label] for label in labels if label is not None}
    boxes, mask, problems = _annotate(entry, own, annotations, image)
    extension = posixpath.splitext(entry["path"])[1][1:].lower()
    if not is_image(entry["path"]):
        extension = image.suffix
    if image.smaller is not None:
        boxes, mask = _shrunk(boxes, mask, image.size, image.smaller_size)
        extension, data = "jpg", image.smaller
    about = _about(entry, list(own), classes, image.smaller_size, boxes)
    rows = [_index_row(entry, data, about), *problems]
    if image.smaller is None and stays(entry["location"]):
        extension, data = WHERE, entry["location"].encode()
    return _members(extension, data, about, mask), rows


def _annotate(
    entry: dict[str, Any],
    labels: Mapping[int, str],
    annotations: Annotations | None,
    picture: Picture,
) -> tuple[list[dict[str, Any]], np.ndarray | None, list[dict[str, Any]]]:
    """Return boxes and mask of one picture, and a rejected row for each problem with them.

    Args:
        entry: row of the plan.
        labels: names of the picture's classes by their numbers.
        annotations: the data set's annotations.
        picture: the picture's sizes and orientation.
    """
    if annotations is None or entry["annotation_path"] is None:
        return [], None, []
    label = next(iter(labels.values()), "") if len(labels) < 2 else ""
    try:
        boxes, mask = annotations.annotate(listed_of(entry), picture, label)
        if len(labels) > 1 and boxes and not any(box["name"] for box in boxes):
            raise BrokenAnnotation(
                "its objects have no names, so that it is not known which has which of the "
                "picture's labels"
            )
    except (BrokenAnnotation, OSError) as error:
        return [], None, [_rejected("annotation", entry["annotation_path"], str(error))]
    inside, problems = [], []
    numbers = np.zeros(MOST_OBJECTS + 1, np.uint8)  # of the objects in the mask, as they will be
    for number, box in enumerate(boxes, 1):
        counted = annotations.counted({**box, "name": composed(box["name"])}, labels)
        if counted is None:
            continue
        try:
            inside.append(clip(counted, picture.size))
            if mask is not None:
                numbers[number] = len(inside)
        except BrokenAnnotation as error:
            problems.append(_rejected("annotation", entry["annotation_path"], str(error)))
    if mask is not None and len(labels) > 1:
        mask = numbers[mask]
    return inside, mask, problems


def _shrunk(
    boxes: list[dict[str, Any]],
    mask: np.ndarray | None,
    before: tuple[int, int],
    after: tuple[int, int],
) -> tuple[list[dict[str, Any]], np.ndarray | None]:
    """Return the boxes and the mask of a picture whose (width, height) was changed."""
    factors = {"x": after[0] / before[0], "y": after[1] / before[1]}
    moved = [{k: v * factors[k[0]] if k in CORNERS else v for k, v in box.items()} for box in boxes]
    if mask is not None:
        mask = np.asarray(Image.fromarray(mask).resize(after, Image.Resampling.NEAREST))
    return moved, mask


def _about(
    entry: dict[str, Any],
    labels: list[int],
    classes: Sequence[str],
    size: tuple[int, int],
    boxes: list[Any],
) -> dict[str, Any]:
    """Return what is stored of a sample; label and class are lists where it has several labels."""
    names = [classes[label] for label in labels]
    several = len(labels) > 1
    return {
        "label": labels if several else next(iter(labels), None),
        "class": names if several else next(iter(names), None),
        "path": entry["path"],
        "width": size[0],
        "height": size[1],
        "boxes": boxes,
    }


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
    labels, names = (
        value if isinstance(value, list) else [value] if value is not None else []
        for value in (about["label"], about["class"])
    )
    first = {"label": next(iter(labels), None), "class": next(iter(names), None)}
    sha256 = hashlib.sha256(data).hexdigest()
    all_of_them = {"labels": labels, "classes": names}
    return {"key": entry["key"], "sha256": sha256, **about, **first, **all_of_them}


def _rejected(kind: str, path: str, reason: str) -> dict[str, Any]:
    return {"kind": kind, "path": path, "reason": reason}
