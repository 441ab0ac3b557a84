"""`make bench-gpu`: within ten minutes of a GPU, what docs/cost.md measures on CPUs.

What an explanation and a training step cost on four networks, the way of a shard, decoding on the
CPU and by NVJPEG, number formats and compilation, ROAD's imputation on the GPU beside the compiled
one, and the tests marked gpu. A part for which too little time is left is named and left out.
Where there is no GPU, all parts run dry: small networks, on the CPU.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks import bulk, cost
from benchmarks.measure import Contestants, ratio, seconds
from benchmarks.stages import draw
from ttame_core import spec
from ttame_core.backbones.devices import place
from ttame_core.perturbation.imputation.compiled import impute_each
from ttame_core.perturbation.imputation.sparse import impute_together
from ttame_core.perturbation.masking import ranks
from ttame_core.training.coverage import random_backbone

LIMIT = 600  # seconds for all parts
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
MODELS = cost.MODELS if GPU else ("test_resnet", "test_vit")
BATCH = 128 if GPU else 2
ROUNDS = 5 if GPU else 1
PICTURES = 2048 if GPU else 32
DECODED = 512 if GPU else 16
SIDE = 224 if GPU else 64
Part = Callable[[], Table]


def main() -> None:
    warnings.simplefilter("ignore")
    console, start = Console(width=100), time.monotonic()
    where = torch.cuda.get_device_name() if GPU else "no GPU: a dry run on the CPU"
    console.print(f"torch {torch.__version__}, {where}, batches of {BATCH}.")
    for name, needed, part in _parts():
        left = LIMIT - (time.monotonic() - start)
        if GPU and left < needed:
            console.print(f"{name}: left out, {left:.0f} s are left and it may take {needed} s")
            continue
        try:
            console.print(part())
        except Exception as error:  # the others are still worth their time
            console.print(f"{name} fails: {type(error).__name__}: {error}", style="red")
        console.print(f"{name}: {time.monotonic() - start:.0f} s of {LIMIT} are gone", style="dim")


def _parts() -> Iterator[tuple[str, int, Part]]:
    """The name of each part, the seconds that it may take on a GPU, and what makes its table."""
    for model in MODELS:
        yield model, 60, lambda m=model: cost.compare(m, BATCH, ROUNDS, DEVICE, memory=GPU)
    yield "the whole path", 120, lambda: bulk.compare(DEVICE, MODELS[:1], PICTURES, BATCH)
    yield "decoding", 30, _decoding
    yield "imputation", 60, _imputation
    yield "formats and compilation", 90, _switches
    yield "tests", 60, _tests


def _decoding() -> Table:
    """Pictures per second, from the bytes of JPEG files to pixels."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), DECODED)
        files = [path.read_bytes() for path in Path(folder).rglob("*.jpg")]
    tensors = [torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]
    cores = os.cpu_count() or 1

    def pillow(file: bytes) -> Image.Image:
        return Image.open(io.BytesIO(file)).convert("RGB")

    def on_threads() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(pillow, files))

    def by_nvjpeg() -> None:
        for batch in range(0, len(tensors), BATCH):
            decode_jpeg(tensors[batch : batch + BATCH], ImageReadMode.RGB, device="cuda")

    contestants: Contestants = {
        "Pillow, one thread": lambda: list(map(pillow, files)),
        f"Pillow, {cores} threads": on_threads,
    }
    if GPU:
        contestants = {**contestants, "NVJPEG (torchvision)": by_nvjpeg}
    table = _table("decoding JPEGs of 500 × 375", "", "pictures/s")
    for name, taken in seconds(contestants, ROUNDS).items():
        table.add_row(name, f"{len(files) / _median(taken):.0f}")
    return table


def _imputation() -> Table:
    """ROAD: ms per image of one sparse system a batch, and of compiled loops on the CPU."""
    title = f"ROAD imputation, ms per image of {SIDE}²"
    table = _table(title, "removed", "sparse, GPU", "compiled, CPU", "largest difference")
    images = F.interpolate(_random(BATCH, 3, SIDE // 4, SIDE // 4), SIDE, mode="bilinear")
    relevance = F.interpolate(_random(BATCH, 1, 7, 7), SIDE, mode="bilinear")[:, 0]
    for percentage in (10, 50, 90):
        removed = ranks(relevance) < SIDE * SIDE * percentage // 100
        there = images.to(DEVICE), removed.to(DEVICE)
        apart = impute_together(*there).cpu() - impute_each(images, removed)
        contestants: Contestants = {
            "sparse": lambda there=there: impute_together(*there),
            "compiled": lambda removed=removed: impute_each(images, removed),
        }
        times = seconds(contestants, ROUNDS)
        per_image = [f"{_median(taken) / BATCH * 1e3:.2f}" for taken in times.values()]
        table.add_row(f"{percentage} %", *per_image, f"{apart.abs().max():.0e}")
    return table


def _switches() -> Table:
    """A forward pass in each number format, eager and compiled, as a multiple of float32's."""
    table = _table(f"a forward pass, batches of {BATCH}", "", *MODELS)
    rows: dict[str, list[str]] = {}
    for model in MODELS:
        contestants: Contestants = {}
        for precision in ("float32", "bfloat16"):
            for compiled in (False, True):
                compute = spec.Compute(device=DEVICE, precision=precision, compile=compiled)
                backbone = place(random_backbone(model).fold(), compute)
                images = _random(BATCH, 3, *backbone.preprocessing.input_size).to(DEVICE)

                @torch.inference_mode()
                def forward(backbone=backbone, images=images) -> Tensor:  # type: ignore[no-untyped-def]
                    with backbone.autocast():
                        return backbone.features(backbone.normalise(images))[0]

                contestants = {**contestants, f"{precision}{', compiled' * compiled}": forward}
        times = seconds(contestants, ROUNDS)
        for name in times:
            rows.setdefault(name, []).append(f"{ratio(times, name, 'float32'):.3f}")
        torch.compiler.reset()
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _tests() -> Table:
    """The outcome of the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "gpu", "--durations", "0", "tests"]
    ended = subprocess.run(command, capture_output=True, text=True)
    table = _table("tests marked gpu", "outcome")
    table.add_row(ended.stdout.strip().splitlines()[-1] if ended.stdout else ended.stderr)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _median(taken: list[float]) -> float:
    return sorted(taken)[len(taken) // 2]


def _random(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    main()
