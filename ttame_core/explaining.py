"""Maps in bulk: one shard, one backbone, any number of explainers, one Parquet file each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.data.loader import load_batches
from ttame_core.errors import UserError
from ttame_core.explainers import Explainer, ForwardPass, forward_pass
from ttame_core.lake import Lake, maps_file
from ttame_core.lake.schemas import maps_schema
from ttame_core.lake.store import RowGroups
from ttame_core.masking import min_max

Progress = Callable[[int], None]  # told how many images are done


def explain_shard(
    lake: Lake,
    dataset: str,
    shard: str,
    backbone: Backbone,
    explainers: Mapping[str, Explainer],
    made_from: Mapping[str, Any],
    targets: str | list[int],
    compute: spec.Compute,
    progress: Progress | None = None,
) -> None:
    """Write the maps of one shard, one file per explainer, a row per image and target class.

    One forward pass per batch serves the model truth, the probabilities and every explainer.
    Decoding runs ahead in threads and writing behind in another, while the device computes.
    made_from: what fingerprints each explainer's file.
    """
    batches = load_batches(
        lake, dataset, [shard], backbone.preprocessing, compute.batch_size, compute.workers
    )
    view = json.dumps(asdict(backbone.preprocessing))
    with ExitStack() as files, ThreadPoolExecutor(1, thread_name_prefix="write") as writing:
        writers: dict[str, RowGroups] = {}
        pending: list[Future[None]] = []
        done = 0
        for batch in batches:
            forward = forward_pass(backbone, batch)
            wanted = choose_targets(forward.logits, batch.labels, targets, backbone.name)
            for name, explainer in explainers.items():
                maps = min_max(explainer.attribute(forward, wanted)).cpu()
                if name not in writers:
                    path = maps_file(dataset, backbone.name, name, shard)
                    schema = maps_schema(*maps.shape[-2:])
                    writers[name] = files.enter_context(
                        lake.create_parquet(path, schema, made_from[name], preprocessing=view)
                    )
                rows = _rows(forward, wanted.cpu(), maps, writers[name].schema)
                pending.append(writing.submit(writers[name].write, rows))
            while len(pending) > 2 * len(explainers):
                pending.pop(0).result()
            done += len(batch)
            if progress:
                progress(done)
        for future in pending:
            future.result()


def choose_targets(
    logits: Tensor, labels: Tensor, targets: str | list[int], backbone: str
) -> Tensor:
    """Target classes (B, T) int64: `predicted` (model truth), `label`, `top-K`, or a list."""
    classes = logits.shape[1]
    if targets == "predicted":
        return logits.argmax(dim=1, keepdim=True)
    if targets == "label":
        check_labels(int(labels.max()), classes, backbone)
        return labels[:, None].to(logits.device)
    if isinstance(targets, str):
        count = int(targets.removeprefix("top-"))
        if count > classes:
            raise UserError(f"maps.targets is {targets}, but {backbone} has {classes} classes")
        return logits.topk(count, dim=1).indices
    beyond = [t for t in targets if not 0 <= t < classes]
    if beyond:
        raise UserError(
            f"maps.targets names class {beyond[0]}, but {backbone} has the classes 0 to "
            f"{classes - 1}"
        )
    return torch.tensor(targets, device=logits.device).expand(len(logits), -1)


def check_labels(largest: int, classes: int, backbone: str) -> None:
    """Raise UserError where the data set has labels that the classifier does not know."""
    if largest >= classes:
        raise UserError(
            f"the data set has the label {largest}, but backbone {backbone} has the classes 0 to "
            f"{classes - 1}: give `dataset.classes` in the classifier's order, or another backbone"
        )


def _rows(forward: ForwardPass, targets: Tensor, maps: Tensor, schema: pa.Schema) -> pa.RecordBatch:
    """Rows of one batch; images that have no map (NaN) have no row."""
    images, columns = torch.nonzero(~maps.isnan().flatten(2).any(dim=2), as_tuple=True)
    probabilities = forward.logits.float().softmax(dim=1).cpu()
    predicted = forward.logits.argmax(dim=1).cpu()
    values = maps[images, columns].to(torch.float16).numpy().reshape(-1)
    height, width = maps.shape[-2:]
    chosen = targets[images, columns]
    return pa.record_batch(
        [
            pa.array([forward.batch.keys[i] for i in images.tolist()], pa.string()),
            forward.batch.labels[images].numpy().astype(np.int32),
            predicted[images].numpy().astype(np.int32),
            chosen.numpy().astype(np.int32),
            probabilities[images, chosen].numpy(),
            np.full(len(images), height, np.int16),
            np.full(len(images), width, np.int16),
            pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float16()), height * width),
        ],
        schema=schema,
    )


def read_maps(lake: Lake, path: str) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Rows of a maps file, one row group in memory at a time: its columns, and its map (h, w)."""
    with lake.open(path) as stream:
        file = pq.ParquetFile(stream)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            flat = table.column("map").combine_chunks().flatten().to_numpy(zero_copy_only=False)
            rows = table.drop_columns(["map"]).to_pylist()
            if rows:
                shape = (len(rows), rows[0]["height"], rows[0]["width"])
                maps = torch.from_numpy(flat.astype(np.float32).reshape(shape))
                yield from zip(rows, maps, strict=True)
