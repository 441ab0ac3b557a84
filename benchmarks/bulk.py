"""The whole path shard → decode → explain → Parquet, beside plain inference through its loader."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import torch
from rich.table import Table

from benchmarks.measure import ratio, seconds
from benchmarks.storage import shard_all
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import device_of, place
from ttame_core.data.loader import load_batches
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.attention import AttentionHead
from ttame_core.lake import Lake
from ttame_core.stages.explain import WantedMaps, explain_shard
from ttame_core.stages.shard import StoredShard
from ttame_core.training.coverage import random_backbone

MODELS = ("test_resnet", "resnet18", "resnet50")  # from where decoding is the bottleneck to where
IMAGES = 256
SHARD = "test-000000"
ROUNDS = 5
PLAIN, FOLDED, EXPLAINED = "plain", "plain, folded and channels-last", "explained"


def compare(
    device: str, models: Sequence[str] = MODELS, images: int = IMAGES, batch_size: int = 32
) -> Table:
    """Images per second of both, for models of rising cost."""
    compute = spec.Compute(device=device, batch_size=batch_size)
    source = {"kind": "shapes", "train": 0, "val": 0, "test": images, "size": 384}
    dataset = spec.Dataset(name="bulk", source=source, samples_per_shard=images)  # type: ignore[arg-type]
    table = Table(title=f"images/s of a shard of {images}, batches of {compute.batch_size}")
    for name in ("", PLAIN, FOLDED, EXPLAINED, f"{EXPLAINED} / {PLAIN}", f"/ {FOLDED}"):
        table.add_column(name, justify="left" if not name else "right")
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        shard_all(dataset, lake)
        for model in models:
            table.add_row(model, *_row(lake, model, images, compute))
    return table


def _row(lake: Lake, model: str, images: int, compute: spec.Compute) -> list[str]:
    as_it_comes = random_backbone(model).to(device_of(compute))
    backbone = place(random_backbone(model).fold(), compute)
    channels = [tap.channels for tap in backbone.taps]
    head = AttentionHead(channels, backbone.num_classes, backbone.map_size)
    explainer = TTame(backbone, head=head)
    rounds = 0

    @torch.inference_mode()
    def plain(network: Backbone) -> None:
        for batch in load_batches(
            lake, "bulk", [SHARD], network.preprocessing, compute.batch_size, compute.workers
        ):
            inputs = network.normalise(batch.float_images(network.device))
            network(inputs).argmax(dim=1).cpu()

    def explained() -> None:
        nonlocal rounds
        rounds += 1
        wanted = [WantedMaps("ttame", explainer, {"round": rounds, "process": os.getpid()})]
        explain_shard(StoredShard(lake, "bulk", SHARD), backbone, wanted, "predicted", compute)

    contestants = {
        PLAIN: lambda: plain(as_it_comes),
        FOLDED: lambda: plain(backbone),
        EXPLAINED: explained,
    }
    times = seconds(contestants, ROUNDS)
    speeds = [f"{images / sorted(taken)[len(taken) // 2]:.1f}" for taken in times.values()]
    return [*speeds, *(f"{1 / ratio(times, EXPLAINED, base):.3f}" for base in (PLAIN, FOLDED))]
