"""Export of an audit as a folder for Hugging Face `datasets`: images, labels, maps and scores.

A row is an image as it was stored, with the predictions, maps and scores of each classifier and
explainer. Shards are read one after another, and scores are sorted by shard within the memory limit
of `connect`.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image
from torch import Tensor

from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.loader import image_bytes, read_shard
from ttame_core.errors import UserError
from ttame_core.lake import Lake, fingerprint, maps_file
from ttame_core.lake.query.connection import connect
from ttame_core.lake.store import FINGERPRINT, HALF_WRITTEN
from ttame_core.stages.explain import read_maps
from ttame_core.stages.matched import read_names
from ttame_core.stages.provenance import Provenance

FORMAT = 3  # increase it when the code makes other rows from the same audit
SPLITS = {"val": "validation"}  # names of splits in `datasets` that differ from ttame's
ROWS_AT_ONCE = 2**14
# Paths in an export; the empty one is its folder.
WRITTEN = re.compile(r"|README\.md|data|data/[a-z]+-\d{5,}-of-\d{5,}\.parquet")
MapName = tuple[str, str, str]  # key, backbone, explainer


def export_dataset(
    provenance: Provenance, folder: str | Path, wrote: Callable[[str], None] | None = None
) -> None:
    """Write the images that an audit has maps of, with a Parquet file for each shard.

    The folder appears when it is whole. An export that was cut short is continued in
    `.<folder>.unfinished` beside it.

    Args:
        provenance: the audit and its lake.
        folder: folder to write.
        wrote: called with the name of each file that was written.

    Raises:
        UserError: `datasets` is not installed, the audit is not done, or the folder holds something
            else.
    """
    audit, lake = provenance.audit, provenance.lake
    place = Path(folder)
    if any(not work.done for work in provenance.work()):
        raise UserError(
            f"the audit {audit.name} is not done in the workspace {lake}, or its spec has changed: "
            "run `ttame audit` first"
        )
    made_from = {"format": FORMAT, "audit": _identity(provenance)}
    if _is_there(place, made_from):
        return
    shards = [shard for shard, _ in sorted(provenance.shards(audit.maps.split))]
    split = SPLITS.get(audit.maps.split, audit.maps.split)
    with connect(lake) as db:
        dataset, whose = audit.dataset.name, [[b.name for b in audit.backbones], _names(provenance)]
        measured = db.sql(
            "SELECT DISTINCT metric FROM leaderboard WHERE dataset = ? AND "
            "list_contains(?, backbone) AND list_contains(?, explainer) ORDER BY metric",
            params=[dataset, *whose],
        )
        metrics = [metric for (metric,) in measured.fetchall()]
        features = _features(provenance.classes, metrics)
        schema = features.arrow_schema
        about = schema.metadata[b"huggingface"].decode()
        sql = resources.files("ttame_core.exports").joinpath("exported_scores.sql").read_text()
        scored = db.sql(sql, params=[dataset, audit.maps.split, *whose])
        scores = _by_shard(scored.to_arrow_reader(ROWS_AT_ONCE))
        making = _unfinished(place)
        for stale in making.glob("data/*.parquet"):
            if not making.is_current(stale, made_from):
                making.remove(stale)
        for number, shard in enumerate(shards):
            of_shard = scores(shard)
            name = f"data/{split}-{number:05d}-of-{len(shards):05d}.parquet"
            if making.is_current(name, made_from):
                continue
            with making.create_parquet(name, schema, made_from, huggingface=about) as writer:
                for row in _rows(provenance, shard, of_shard, metrics):
                    encoded = features.encode_example(row)
                    writer.write(pa.RecordBatch.from_pylist([encoded], schema=schema))
            if wrote:
                wrote(name)
    with making.create("README.md") as path:
        path.write_text(_card(provenance, split), encoding="utf-8")
    Path(making.root).rename(place)


def _identity(provenance: Provenance) -> str:
    """Return a hash of everything that the rows of the export depend on."""
    audit = provenance.audit
    shards = [shard for shard, _ in provenance.shards(audit.maps.split)]
    return fingerprint(
        [
            [provenance.classes, audit.maps.split, _names(provenance)],
            [b.name for b in audit.backbones],
            [
                provenance.scores(backbone, explainer, metric, shard)
                for backbone in audit.backbones
                for explainer in provenance.explainers()
                for metric in audit.evaluation.metrics
                for shard in shards
            ],
        ]
    )


def _names(provenance: Provenance) -> list[str]:
    return [explainer.name for explainer in provenance.explainers()]


def _is_there(place: Path, made_from: Any) -> bool:
    """Say whether a folder holds this export; raises UserError where it holds anything else."""
    if not os.path.lexists(place) or (
        place.is_dir() and not place.is_symlink() and not any(place.iterdir())
    ):
        return False
    export = Lake(place)
    files = export.glob("data/*.parquet")
    if files and all(export.are_current([(file, made_from) for file in files])):
        return True
    raise UserError(f"{place} holds something else than this export: name a new folder")


def _unfinished(place: Path) -> Lake:
    """Return the folder that an export is written to before it appears at `place`.

    Raises:
        UserError: something is there that no export has written.
    """
    folder = place.absolute().with_name(f".{place.absolute().name}.unfinished")
    making = Lake(folder)
    for path in ("", *(str(p.relative_to(folder)) for p in sorted(folder.rglob("*")))):
        named = WRITTEN.fullmatch(path) or HALF_WRITTEN.fullmatch(path.rsplit("/", 1)[-1])
        ours = not path.endswith(".parquet") or FINGERPRINT.decode() in making.metadata(path)
        if (folder / path).is_symlink() or not (named and ours):
            raise UserError(
                f"{folder / path} is in the way, and no export has written it: remove {folder}, or "
                "name another folder for the export"
            )
    return making


def _distinct(classes: list[str]) -> list[str]:
    """Make the classes' names distinct by their indices (ImageNet has two cranes)."""
    several = {name for name, count in Counter(classes).items() if count > 1}
    return [f"{name} ({i})" if name in several else name for i, name in enumerate(classes)]


def _features(classes: list[str], metrics: list[str]) -> Any:
    try:
        from datasets import ClassLabel, Features, Value
        from datasets import Image as Picture
    except ImportError:
        raise UserError(
            "the package `datasets` is not installed: pip install 'ttame[datasets]'"
        ) from None
    label = ClassLabel(names=_distinct(classes))
    corners = {corner: Value("float32") for corner in ("x0", "y0", "x1", "y1")}
    return Features(
        {
            "key": Value("string"),
            "image": Picture(),
            "label": label,
            "labels": [label],
            "boxes": [{"name": Value("string"), **corners}],
            "explanations": [
                {
                    "backbone": Value("string"),
                    "explainer": Value("string"),
                    "predicted": Value("int32"),
                    "target": Value("int32"),
                    "predicted_class": Value("string"),
                    "target_class": Value("string"),
                    "probability": Value("float32"),
                    "view": corners,
                    "map": Picture(),
                    "scores": {metric: Value("float32") for metric in metrics},
                }
            ],
        }
    )


def _by_shard(reader: pa.RecordBatchReader) -> Callable[[str], dict[MapName, dict[str, float]]]:
    """Return a function that reads the scores of the next shard, by map and metric.

    Shards must be asked for in the order of the reader; scores of skipped shards are dropped.
    """

    def walk() -> Iterator[tuple[str, MapName, str, float]]:
        for batch in reader:
            columns = (batch.column(name).to_pylist() for name in ("shard", "metric", "value"))
            places = (tuple(place.values()) for place in batch.column("place").to_pylist())
            for (shard, metric, value), place in zip(
                zip(*columns, strict=True), places, strict=True
            ):
                yield shard, place, metric, value

    groups = groupby(walk(), key=lambda row: row[0])
    current = next(groups, None)

    def of(shard: str) -> dict[MapName, dict[str, float]]:
        nonlocal current
        values: dict[MapName, dict[str, float]] = {}
        while current is not None and current[0] <= shard:
            for of_shard, place, metric, value in current[1]:
                if of_shard == shard:
                    values.setdefault(place, {})[metric] = value
            current = next(groups, None)
        return values

    return of


@dataclass
class _Maps:
    """A reader of one backbone's and explainer's maps that goes forward with a shard's samples."""

    backbone: str
    explainer: str
    preprocessing: Preprocessing
    names: Mapping[int, str]
    groups: Iterator[tuple[str, Iterator[tuple[dict[str, Any], Tensor]]]]
    ahead: tuple[str, list[tuple[dict[str, Any], Tensor]]] | None = None

    def of(self, key: str) -> list[tuple[dict[str, Any], Tensor]]:
        if self.ahead is None:
            self.ahead = next(((k, list(rows)) for k, rows in self.groups), None)
        if self.ahead is None or self.ahead[0] != key:
            return []
        taken, self.ahead = self.ahead[1], None
        return taken


def _open_maps(provenance: Provenance, shard: str) -> Iterator[_Maps]:
    """Yield a reader for each maps file of a shard, without explainers that do not apply."""
    lake = provenance.lake
    for backbone in provenance.audit.backbones:
        classes = read_names(provenance, backbone.name)
        for name in _names(provenance):
            path = maps_file(provenance.dataset, backbone.name, name, shard)
            said = lake.metadata(path).get("preprocessing")
            if said:
                view = Preprocessing.from_config(json.loads(said))
                groups = groupby(read_maps(lake, path), key=lambda row: row[0]["key"])
                yield _Maps(backbone.name, name, view, classes, groups)


def _rows(
    provenance: Provenance,
    shard: str,
    scores: dict[MapName, dict[str, float]],
    metrics: list[str],
) -> Iterator[dict[str, Any]]:
    opened = list(_open_maps(provenance, shard))
    for sample in read_shard(provenance.lake, provenance.dataset, shard):
        key, about = sample["__key__"], sample["__row__"]
        explanations = [
            _explanation(maps, row, heat, scores, metrics, (about["width"], about["height"]))
            for maps in opened
            for row, heat in maps.of(key)
        ]
        if explanations:
            yield {
                "key": key,
                "image": {"bytes": image_bytes(sample), "path": None},
                "label": about["label"],
                "labels": about["labels"],
                "boxes": about["boxes"],
                "explanations": explanations,
            }


def _explanation(
    maps: _Maps,
    row: dict[str, Any],
    heat: Tensor,
    scores: dict[MapName, dict[str, float]],
    metrics: list[str],
    size: tuple[int, int],
) -> dict[str, Any]:
    of_truth = row["target"] == row["predicted"]
    own = scores.get((row["key"], maps.backbone, maps.explainer), {}) if of_truth else {}
    return {
        "backbone": maps.backbone,
        "explainer": maps.explainer,
        **{name: row[name] for name in ("predicted", "target", "probability")},
        **{
            f"{name}_class": maps.names.get(row[name], f"class {row[name]}")
            for name in ("predicted", "target")
        },
        "view": dict(zip(("x0", "y0", "x1", "y1"), maps.preprocessing.region(size), strict=True)),
        "map": _png(heat),
        "scores": {metric: own.get(metric) for metric in metrics},
    }


def _png(heat: Tensor) -> dict[str, Any] | None:
    """Return a map in [0, 1] as a grey picture of 8 bits; None for a map of NaN."""
    if heat.isnan().any():
        return None
    stream = io.BytesIO()
    Image.fromarray((heat.numpy() * 255).round().astype(np.uint8)).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


CARD = """
# {name}

Images of the data set {dataset}, and the explanation maps and scores that an audit made of them.

- `image`, `labels`, `boxes`: as annotated; pixels of the image. `label` is the first of the labels.
- `explanations`: one for each backbone, explainer and target class.
    - `map`: 8 bits of grey, 255 at its highest place, at the explainer's own resolution.
    - `view`: the part of the image that the map covers, which is what the classifier saw; pixels of
      the image.
    - `predicted`, `target`: numbers of the backbone's own classes, and their names in
      `predicted_class`, `target_class`; `probability`: softmax of the target.
    - `scores`: of each metric; nothing where the target is not the predicted class.

Backbones: {backbones}. Explainers: {explainers}.
"""


def _card(provenance: Provenance, split: str) -> str:
    audit = provenance.audit
    files = [{"split": split, "path": f"data/{split}-*.parquet"}]
    front = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]})
    text = CARD.format(
        name=audit.name,
        dataset=audit.dataset.name,
        backbones=", ".join(b.name for b in audit.backbones),
        explainers=", ".join(_names(provenance)),
    )
    return f"---\n{front}---\n{text}"
