"""Shards per second over worker processes, with a model that sleeps instead of computing.

Everything else is as in an audit: the Prefect server, the task runs, the loader, the explanation
maps in the lake. So cores do not limit it, and what is not sleep is lost. Part of that is work,
which the same shards take without a scheduler, one after another in this process: what is lost
beyond it is the scheduling's overhead.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from prefect import flow
from prefect.logging import disable_run_logger
from rich.table import Table
from torch import Tensor, nn

from benchmarks.storage import shard_all
from flows.engine import opened
from flows.explain_dataset import explain_dataset
from flows.shard_dataset import shard_dataset
from tasks.explain import explain
from ttame_core.audits.specification import complete
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec, trust
from ttame_core.stages.provenance import Provenance

IMAGES = 4  # of a shard, one batch
# Engines with their numbers of workers; the others are compared with the first.
ENGINES = (("processes", 1), ("processes", 2), ("processes", 4), ("dask", 4), ("ray", 4))
SECONDS = ((1.0, 12), (10.0, 12))  # sleep per shard, and shards per worker
WORK = 20  # shards without a scheduler


class Sleeper(nn.Module):
    """Classifies by the mean colour, after a sleep for each batch, which is a shard."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.default_cfg = {"input_size": (3, 32, 32), "crop_pct": 1.0}
        self.seconds = seconds
        self.features = nn.Conv2d(3, 8, 4, stride=4)
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        if images.any():  # not the blank image that finds out its shapes
            time.sleep(self.seconds)
        return self.head(self.features(images).mean(dim=(2, 3)))


def sleeper(seconds: float) -> nn.Module:
    torch.manual_seed(0)
    return Sleeper(seconds)


def compare() -> Table:
    """Throughput and what is lost, beside the sleep alone."""
    title = f"explain_dataset, shards of {IMAGES} images, a model that sleeps so long for each"
    table = Table(title=title)
    for name in (
        "s/shard",
        "engine",
        "workers",
        "shards counted",
        "shards/s",
        "efficiency",
        "lost",
        "work",
        "overhead",
    ):
        table.add_column(name, justify="right")
    work = _work()
    for seconds, each in SECONDS:
        alone = 0.0
        for engine, workers in ENGINES:
            rate, shards = _rate(seconds, engine, workers, each * workers)
            alone = alone or rate
            table.add_row(
                f"{seconds:g}",
                engine,
                str(workers),
                str(shards),
                f"{rate:.4f}",
                f"{rate / alone / workers:.1%}",
                f"{1000 * (workers / rate - seconds):.0f} ms",
                f"{1000 * work:.0f} ms",
                f"{(workers / rate - work) / seconds - 1:.2%}",
            )
    return table


def _work() -> float:
    """Seconds that a shard takes beside the sleep, without a scheduler."""
    with tempfile.TemporaryDirectory() as folder:
        audit = _audit(0.0, "processes", 1, WORK)
        lake = Lake(folder)
        shard_all(audit.dataset, lake)
        taken = []
        for shard, _ in Provenance(audit, lake).shards("test"):
            start = time.perf_counter()
            with disable_run_logger():
                explain.fn(audit, folder, audit.backbones[0], [shard])
            taken.append(time.perf_counter() - start)
    return median(taken)


def _rate(seconds: float, engine: str, workers: int, shards: int) -> tuple[float, int]:
    """Shards per second, and of how many: about as many as asked for.

    Their files say when each was made. The first of each worker are not counted, so that the start
    of processes and flows is not in it, nor is a last round that has not work for all.
    """
    with tempfile.TemporaryDirectory() as folder:
        audit = _audit(seconds, engine, workers, shards)

        @flow
        def bench() -> None:
            with opened(audit.compute):
                shard_dataset(audit, folder)
                explain_dataset(audit, folder)

        bench()
        made = sorted(path.stat().st_mtime for path in Path(folder).glob("maps/*/*/*/*.parquet"))
    counted = (len(made) // workers - 1) * workers
    return counted / (made[workers - 1 + counted] - made[workers - 1]), counted


def _audit(seconds: float, engine: str, workers: int, shards: int) -> AuditSpec:
    trust("benchmarks.scaling:sleeper")
    source = {"kind": "shapes", "train": 0, "val": 0, "test": shards * IMAGES, "size": 32}
    return complete(
        AuditSpec.model_validate(
            {
                "name": "scaling",
                "dataset": {"name": "scaling", "source": source, "samples_per_shard": IMAGES},
                "backbones": [
                    {
                        "model": "benchmarks.scaling:sleeper",
                        "name": "sleeper",
                        "args": {"seconds": seconds},
                        "taps": [],
                    }
                ],
                "explainers": ["random"],
                "compute": {
                    "engine": engine,
                    "at_once": workers,
                    "batch_size": 16 * IMAGES,  # a shard is one batch, whatever it happens to hold
                    "workers": 1,
                    "device": "cpu",
                },
            }
        )
    )
