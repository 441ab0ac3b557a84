"""Bytes of a stored map, and what rounding does to AD and IC: the demo's classifiers and heads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from rich.table import Table
from torch import Tensor

from tasks.models import training_shards
from ttame_core import spec
from ttame_core.audits.specification import open_spec
from ttame_core.backbones import Backbone, load_backbone
from ttame_core.backbones.devices import place
from ttame_core.data.index import finish_dataset
from ttame_core.data.loader import load_batches
from ttame_core.data.plan import plan_shards
from ttame_core.data.shards import write_shard
from ttame_core.explainers import REGISTRY, Explainer, forward_pass
from ttame_core.heads.files import load_head
from ttame_core.lake import Lake, maps_file
from ttame_core.lake.map_values import STORED, restore, store
from ttame_core.metrics.confidence import drop, increase, masked_probabilities
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.masking import min_max
from ttame_core.stages.explain import WantedMaps, explain_shard
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.shard import StoredShard
from ttame_core.training.head import train_head
from ttame_core.training.orders import TrainingOutput

SPEC = "examples/shapes.yaml"
METHODS = ("ttame", "gradcam")
KEEP = (100, 50, 15)
IMAGES = 1200  # of the test split: one that changes sides is 0.08 points of IC


def compare(device: str) -> Table:
    """For each way of storing: what a map takes on disk, and how far AD and IC move.

    AD and IC of the test split, by backbone and explainer, less those of the same maps in float32,
    in points: the mean of these differences, and the largest.
    """
    audit = open_spec(SPEC)
    source = audit.dataset.source.model_copy(update={"test": IMAGES})
    dataset = audit.dataset.model_copy(update={"source": source})
    audit = audit.model_copy(
        update={"dataset": dataset, "compute": spec.Compute(device=device, workers=2)}
    )
    table = Table(title=f"{', '.join(METHODS)} on the demo's classifiers")
    for name in ("", *STORED):
        table.add_column(name, justify="right" if name else "left")
    changes: dict[str, list[Tensor]] = {dtype: [] for dtype in STORED}
    sizes: dict[str, list[tuple[float, int]]] = {dtype: [] for dtype in STORED}
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        shard_all(audit.dataset, lake)
        provenance = Provenance(audit, lake)
        for settings in audit.backbones:
            backbone = place(load_backbone(settings), audit.compute)
            for method in METHODS:
                explainer = _explainer(provenance, backbone, method)
                for dtype, moved in _changes(provenance, backbone, explainer).items():
                    changes[dtype].append(moved)
                for dtype in STORED:
                    sizes[dtype].append(_size(provenance, backbone, explainer, dtype))
    bytes_, values = ({k: np.mean([f[i] for f in v]) for k, v in sizes.items()} for i in (0, 1))
    table.add_row("bytes per map", *(f"{bytes_[d]:,.0f}" for d in STORED))
    table.add_row("bytes per value", *(f"{bytes_[d] / values[d]:.2f}" for d in STORED))
    names = [f"{metric}@{keep}" for metric in ("AD", "IC") for keep in KEEP]
    moved = {dtype: torch.stack(found).flatten(1).tolist() for dtype, found in changes.items()}
    for number, name in enumerate(names):
        cells = ([row[number] for row in moved[dtype]] for dtype in STORED)
        table.add_row(
            f"{name}: mean change, largest",
            *(f"{np.mean(cell):+.3f}, {np.abs(cell).max():.3f}" for cell in cells),
        )
    return table


def shard_all(dataset: spec.Dataset, lake: Lake) -> None:
    """The whole of `ttame shard`, without Prefect around it."""
    plan = plan_shards(dataset, lake)
    for shard in plan.shards:
        write_shard(dataset, lake, plan, shard)
    finish_dataset(dataset, lake, plan)


def _explainer(provenance: Provenance, backbone: Backbone, method: str) -> Explainer:
    explainer = REGISTRY[method](backbone)
    if not explainer.needs_head:
        return explainer
    lake, audit, folder = provenance.lake, provenance.audit, f"heads/{backbone.name}"
    output = TrainingOutput(lake, folder, "bench")
    train_head(training_shards(provenance), output, explainer, audit.training)
    explainer.use(load_head(lake, folder, explainer))
    return explainer


def _changes(provenance: Provenance, backbone: Backbone, explainer: Explainer) -> dict[str, Tensor]:
    """By dtype: AD and IC (2, kept percentages), less those of maps in float32."""
    size = provenance.audit.compute.batch_size
    values: dict[str, list[Tensor]] = {dtype: [] for dtype in ("float32", *STORED)}
    for shard, _ in provenance.shards("test"):
        for batch in load_batches(
            provenance.lake, provenance.dataset, [shard], backbone.preprocessing, size, 2
        ):
            images = batch.float_images(backbone.device)
            forward = forward_pass(backbone, batch)
            p, targets = forward.logits.float().softmax(dim=1).max(dim=1)
            maps = min_max(explainer.attribute(forward, targets[:, None]))[:, 0].float().cpu()
            probe = Probe(backbone, images, targets, size)
            for dtype, rounded in (("float32", maps), *_stored(maps)):
                masked = masked_probabilities(probe, rounded.to(backbone.device), KEEP)
                whole = p[:, None].expand_as(masked)
                values[dtype].append(torch.stack([drop(whole, masked), increase(whole, masked)]))
    means = {dtype: torch.cat(found, dim=1).mean(dim=1) for dtype, found in values.items()}
    return {dtype: means[dtype] - means["float32"] for dtype in STORED}


def _stored(maps: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The maps as they come back from each way of storing them."""
    for dtype, (column, kind) in STORED.items():
        values = pa.array(store(maps.numpy(), kind).reshape(-1), kind)
        listed = pa.FixedSizeListArray.from_arrays(values, maps[0].numel())
        yield dtype, torch.from_numpy(restore(listed, column).reshape(maps.shape))


def _size(
    provenance: Provenance, backbone: Backbone, explainer: Explainer, dtype: str
) -> tuple[float, int]:
    """Bytes per map of the test split's files, and values per map."""
    lake, dataset, audit = provenance.lake, provenance.dataset, provenance.audit
    order = WantedMaps(explainer.name, explainer, "bench", dtype=dtype)
    size = rows = values = 0
    for shard, samples in provenance.shards("test"):
        explain_shard(
            StoredShard(lake, dataset, shard), backbone, [order], "predicted", audit.compute
        )
        path = maps_file(dataset, backbone.name, explainer.name, shard)
        size, rows = size + Path(lake.path(path)).stat().st_size, rows + samples
        first = lake.read_table(path, ["height", "width"]).slice(0, 1).to_pylist()[0]
        values = first["height"] * first["width"]
    return size / rows, values
