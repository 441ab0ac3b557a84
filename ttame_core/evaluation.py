"""Scores of maps: one shard, one backbone, all explainers, from the lake back into the lake."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from ttame_core import spec
from ttame_core.attention import resize
from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch, load_batches
from ttame_core.explaining import Progress, read_maps
from ttame_core.lake import Lake, maps_file, scores_file
from ttame_core.lake.schemas import CONFIDENCE, LOCALIZATION
from ttame_core.lake.store import RowGroups
from ttame_core.metrics import box_iou, energy_in_box, masked_probabilities, pointing_game

FAMILIES = {"confidence": CONFIDENCE, "localization": LOCALIZATION}
Row = dict[str, Any]


@torch.inference_mode()
def evaluate_shard(
    lake: Lake,
    dataset: str,
    shard: str,
    backbone: Backbone,
    made_from: Mapping[str, Any],
    keep: Sequence[float],
    compute: spec.Compute,
    progress: Progress | None = None,
) -> None:
    """Write the scores of one shard's maps: one file per explainer and family of metrics.

    made_from: what fingerprints each explainer's files; its keys say which explainers' maps are
    read. Images are decoded once, and forwarded whole once, for all of them.
    """
    batches = load_batches(
        lake, dataset, [shard], backbone.preprocessing, compute.batch_size, compute.workers
    )
    with ExitStack() as files:
        writers = {
            (family, explainer): files.enter_context(
                lake.create_parquet(
                    scores_file(family, dataset, backbone.name, explainer, shard), schema, origin
                )
            )
            for family, schema in FAMILIES.items()
            for explainer, origin in made_from.items()
        }
        maps = {
            explainer: _MapReader(lake, maps_file(dataset, backbone.name, explainer, shard))
            for explainer in made_from
        }
        done = 0
        for batch in batches:
            images = batch.float_images(backbone.device)
            probabilities = backbone(backbone.normalise(images)).float().softmax(dim=1)
            for explainer, reader in maps.items():
                rows, positions, stack = reader.of(batch)
                if not rows:
                    continue
                confidence = _confidence(
                    rows, positions, stack, images, probabilities, backbone, keep, compute
                )
                _write(writers["confidence", explainer], confidence)
                _write(
                    writers["localization", explainer],
                    _localization(rows, positions, stack, batch),
                )
            done += len(batch)
            if progress:
                progress(done)


class _MapReader:
    """Walks through a maps file in step with the batches of its shard."""

    def __init__(self, lake: Lake, path: str) -> None:
        self._rows = read_maps(lake, path)
        self._next = next(self._rows, None)

    def of(self, batch: Batch) -> tuple[list[Row], Tensor, Tensor]:
        """Rows of the batch's images, their positions (R,) in it, and their maps (R, h, w)."""
        position = {key: i for i, key in enumerate(batch.keys)}
        rows: list[Row] = []
        maps: list[Tensor] = []
        while self._next is not None and self._next[0]["key"] in position:
            rows.append(self._next[0])
            maps.append(self._next[1])
            self._next = next(self._rows, None)
        positions = torch.tensor([position[row["key"]] for row in rows], dtype=torch.int64)
        return rows, positions, torch.stack(maps) if maps else torch.empty(0)


def _confidence(
    rows: list[Row],
    positions: Tensor,
    maps: Tensor,
    images: Tensor,
    probabilities: Tensor,
    backbone: Backbone,
    keep: Sequence[float],
    compute: spec.Compute,
) -> Iterator[Row]:
    targets = torch.tensor([row["target"] for row in rows], device=images.device)
    positions = positions.to(images.device)
    masked = masked_probabilities(
        backbone, images[positions], maps.to(images.device), targets, keep, compute.batch_size
    ).tolist()
    whole = probabilities[positions, targets].tolist()
    for row, p, values in zip(rows, whole, masked, strict=True):
        for percentage, p_masked in zip(keep, values, strict=True):
            yield {**row, "keep": percentage, "p": p, "p_masked": p_masked}


def _localization(rows: list[Row], positions: Tensor, maps: Tensor, batch: Batch) -> Iterator[Row]:
    boxed = [i for i, p in enumerate(positions.tolist()) if len(batch.boxes[p])]
    if not boxed:
        return
    boxes = [batch.boxes[int(positions[i])] for i in boxed]
    size = tuple(batch.images.shape[-2:])
    large = resize(maps[boxed][:, None], size)[:, 0]
    scores = zip(
        pointing_game(large, boxes).tolist(),
        energy_in_box(large, boxes).tolist(),
        box_iou(large, boxes).tolist(),
        strict=True,
    )
    for i, (hit, energy, overlaps) in zip(boxed, scores, strict=True):
        yield {**rows[i], "pointing_game": hit, "energy_in_box": energy, "box_iou": overlaps}


def _write(writer: RowGroups, rows: Iterator[Row]) -> None:
    chosen = [{name: row[name] for name in writer.schema.names} for row in rows]
    if chosen:
        writer.write(pa.RecordBatch.from_pylist(chosen, schema=writer.schema))
