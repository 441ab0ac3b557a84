"""Scoring of stored maps: one shard and one backbone, with any number of explainers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import torch

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch
from ttame_core.explainers import Explainer
from ttame_core.lake import Lake
from ttame_core.lake.families import schema_of
from ttame_core.lake.store import RowGroups
from ttame_core.metrics import Family, MappedImages, Row
from ttame_core.stages.explain import ALL, ImagesDone, read_maps
from ttame_core.stages.shard import StoredShard


@dataclass(frozen=True)
class WantedScores:
    """A file of scores to make, of one explainer's maps by one family of metrics.

    Attributes:
        explainer: name of the explainer in the lake.
        family: family of metrics that scores the maps.
        made_from: description of what makes the file, for its fingerprint.
        images: number of images of the shard, from its first, that are scored.
        maps: fingerprint that the maps must have; None for any.
    """

    explainer: str
    family: Family
    made_from: Any
    images: int = ALL
    maps: str | None = None


def evaluate_shard(
    shard: StoredShard,
    backbone: Backbone,
    wanted: Sequence[WantedScores],
    makers: Mapping[str, Callable[[Backbone], Explainer]],
    compute: spec.Compute,
    progress: ImagesDone | None = None,
) -> None:
    """Write scores of one shard's maps, for which images are decoded once.

    Args:
        shard: shard whose maps are scored.
        backbone: the classifier, on its device.
        wanted: files to make.
        makers: for each explainer's name, the function that makes the explainer of a backbone, for
            the families that explain again.
        compute: batch size, and number of threads that decode.
        progress: called after each batch with the number of images that are done.
    """
    batches = shard.batches(backbone.preprocessing, compute)
    names = dict.fromkeys(scores.explainer for scores in wanted)
    once = {name: cache(makers[name]) for name in names}
    most = max(scores.images for scores in wanted)
    with ExitStack() as files:
        writers = [files.enter_context(_writer(shard, backbone.name, s)) for s in wanted]
        readers = {
            s.explainer: _MapReader(shard.lake, shard.maps_file(backbone.name, s.explainer), s.maps)
            for s in wanted
        }
        done = 0
        for batch in batches if most else ():
            images = batch.float_images(backbone.device)
            for name, reader in readers.items():
                rows, positions, maps = reader.of(batch)
                if not rows:
                    continue
                mapped = MappedImages(
                    rows,
                    positions,
                    maps.to(backbone.device),
                    batch,
                    images,
                    backbone,
                    compute.batch_size,
                    once[name],
                )
                for scores, writer in zip(wanted, writers, strict=True):
                    if scores.explainer == name and done < scores.images:
                        within = (positions < scores.images - done).tolist()
                        part = mapped if all(within) else mapped.where(within)
                        _write(writer, scores.family.score(part))
            done += len(batch)
            if progress:
                progress(done)
            if done >= most:
                break


def _writer(shard: StoredShard, backbone: str, scores: WantedScores) -> Any:
    family = scores.family.name
    path = shard.scores_file(family, backbone, scores.explainer)
    return shard.lake.create_parquet(path, schema_of(family), scores.made_from)


class _MapReader:
    """A reader of a maps file that goes forward with the batches of its shard."""

    def __init__(self, lake: Lake, path: str, made_by: str | None) -> None:
        self._rows = read_maps(lake, path, made_by)
        self._next = next(self._rows, None)

    def of(self, batch: Batch) -> tuple[list[Row], torch.Tensor, torch.Tensor]:
        """Return rows of the batch's images, their positions (R,) in it, and maps (R, h, w)."""
        position = {key: i for i, key in enumerate(batch.keys)}
        rows: list[Row] = []
        maps: list[torch.Tensor] = []
        while self._next is not None and self._next[0]["key"] in position:
            rows.append(self._next[0])
            maps.append(self._next[1])
            self._next = next(self._rows, None)
        positions = torch.tensor([position[row["key"]] for row in rows], dtype=torch.int64)
        return rows, positions, torch.stack(maps) if maps else torch.empty(0)


def _write(writer: RowGroups, rows: Iterable[Row]) -> None:
    chosen = [{name: row[name] for name in writer.schema.names} for row in rows]
    if chosen:
        writer.write(pa.RecordBatch.from_pylist(chosen, schema=writer.schema))
