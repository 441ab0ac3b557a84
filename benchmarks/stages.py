"""What each stage costs for a million images, and the bytes that it leaves."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from benchmarks.storage import shard_all
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import place
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.attention import AttentionHead
from ttame_core.lake import Lake
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.stages.evaluate import WantedScores, evaluate_shard
from ttame_core.stages.explain import WantedMaps, explain_shard
from ttame_core.stages.shard import StoredShard
from ttame_core.training.coverage import random_backbone

IMAGES = 256
SIZE = (500, 375)  # as many of ImageNet's
GRAIN = 9.0
DATASET, SHARD = "stages", "test-000000"
METRICS = ("confidence", "localization", "shape")  # an audit's default


def compare(device: str, model: str = "resnet50") -> Table:
    """Images per second, hours of a core per million images, and bytes per image.

    A core's hours do not depend on what else the machine does; on a GPU they are those of its CPU.
    """
    compute = spec.Compute(device=device)
    torch.manual_seed(0)
    backbone = place(random_backbone(model).fold(), compute)
    table = Table(title=f"{model}, {IMAGES} images of {SIZE[0]} × {SIZE[1]}")
    for name in ("", "images/s", "core hours per million", "bytes per image", "files per shard"):
        table.add_column(name, justify="right" if name else "left")
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "images"), IMAGES)
        lake = Lake(f"{folder}/lake")
        stages: dict[str, tuple[Callable[[], None], str]] = {
            "plain inference, images in memory": (lambda: _plain(backbone), "nothing"),
            "shard": (lambda: _shard(lake, f"{folder}/images"), "datasets"),
            "explain: ttame": (lambda: _explain(lake, backbone, compute), "maps"),
            f"evaluate: {', '.join(METRICS)}": (
                lambda: _evaluate(lake, backbone, compute),
                "scores",
            ),
        }
        for name, (run, of) in stages.items():
            start, busy = time.perf_counter(), time.process_time()
            run()
            taken = (time.perf_counter() - start) / IMAGES
            busy = (time.process_time() - busy) / IMAGES
            files = [p for p in Path(folder, "lake", of).rglob("*") if p.is_file()]
            size = sum(p.stat().st_size for p in files) / IMAGES
            own = sum(p.name.startswith(SHARD) for p in files)
            hours = f"{busy * 1e6 / 3600:.2f}"
            table.add_row(name, f"{1 / taken:.1f}", hours, f"{size:,.0f}", str(own))
    return table


def draw(folder: Path, images: int, seed: int = 0) -> None:
    """Pictures of smooth noise with a little grain, some 75 kB of JPEG each."""
    generator = np.random.default_rng(seed)
    (folder / "noise").mkdir(parents=True)
    for number in range(images):
        small = generator.integers(0, 256, (25, 33, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC))
        picture = np.clip(smooth + generator.normal(0, GRAIN, smooth.shape), 0, 255)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"noise/{number}.jpg", quality=90)


@torch.inference_mode()
def _plain(backbone: Backbone) -> None:
    images = torch.rand(32, 3, *backbone.preprocessing.input_size, device=backbone.device)
    for _ in range(IMAGES // len(images)):
        backbone(backbone.normalise(images)).argmax(dim=1).cpu()


def _shard(lake: Lake, images: str) -> None:
    source = spec.Source(kind="folder", path=images)
    dataset = spec.Dataset(name=DATASET, source=source, splits={"test": 1.0})
    shard_all(dataset, lake)


def _explain(lake: Lake, backbone: Backbone, compute: spec.Compute) -> None:
    channels = [tap.channels for tap in backbone.taps]
    head = AttentionHead(channels, backbone.num_classes, backbone.map_size)
    wanted = [WantedMaps("ttame", TTame(backbone, head=head), "bench")]
    explain_shard(StoredShard(lake, DATASET, SHARD), backbone, wanted, "predicted", compute)


def _evaluate(lake: Lake, backbone: Backbone, compute: spec.Compute) -> None:
    families = [FAMILIES[m]() for m in METRICS]
    wanted = [WantedScores("ttame", family, "bench") for family in families]
    evaluate_shard(StoredShard(lake, DATASET, SHARD), backbone, wanted, {"ttame": TTame}, compute)
