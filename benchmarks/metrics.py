"""What perturbation metrics cost beside forward passes, and imputation beside grad-cam's."""

from __future__ import annotations

from functools import partial

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Contestants, ratio, seconds
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import place
from ttame_core.metrics.confidence import masked_probabilities
from ttame_core.metrics.curves import curve_probabilities
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.imputation import impute
from ttame_core.perturbation.masking import ranks
from ttame_core.training.coverage import random_backbone

SIDE, IMAGES, BY_LIBRARY = 224, 8, 2
PERCENTAGES = (10, 50, 90)
MODEL, STEPS = "resnet50", 16
FAMILIES = (  # one network of each
    *("resnet18", MODEL, "efficientnet_b0", "convnext_tiny", "swin_tiny_patch4_window7_224"),
    "vit_small_patch16_224",
)
OURS, LIBRARY, FORWARD = "ours", "grad-cam's", "forward passes"


def compare(device: str, batch_size: int, rounds: int) -> tuple[Table, ...]:
    """All three tables."""
    return (
        _masking(device, batch_size, rounds),
        _imputation(device, rounds),
        _curves(device, batch_size, rounds),
    )


def _masking(device: str, batch_size: int, rounds: int) -> Table:
    """AD, IC and AG at three percentages: 3 passes is the floor."""
    table = _table("AD, IC and AG at 100, 50 and 15 %", "", "times plain passes")
    for name in FAMILIES:
        backbone = place(random_backbone(name).fold(), spec.Compute(device=device))
        images = _random(batch_size, 3, SIDE, SIDE).to(device)
        maps = _random(batch_size, SIDE // 8, SIDE // 8).to(device)
        targets = torch.zeros(batch_size, dtype=torch.int64, device=device)

        @torch.inference_mode()
        def forward(backbone: Backbone, images: Tensor) -> None:
            backbone(backbone.normalise(images))

        probe = Probe(backbone, images, targets, batch_size)
        contestants: Contestants = {
            FORWARD: partial(forward, backbone, images),
            OURS: partial(masked_probabilities, probe, maps, (100, 50, 15)),
        }
        table.add_row(name, f"{ratio(seconds(contestants, rounds), OURS, FORWARD):.3f}")
    return table


def _imputation(device: str, rounds: int) -> Table:
    title = f"ROAD imputation, ms per image of {SIDE}², batches of {IMAGES}"
    table = _table(title, "maps", "removed", OURS, LIBRARY, "times faster", "largest difference")
    images = F.interpolate(_random(IMAGES, 3, SIDE // 4, SIDE // 4), SIDE, mode="bilinear")
    maps = {
        "smooth": F.interpolate(_random(IMAGES, 1, 7, 7), SIDE, mode="bilinear")[:, 0],
        "random": _random(IMAGES, SIDE, SIDE),
    }
    for kind, relevance in maps.items():
        for percentage in PERCENTAGES:
            removed = ranks(relevance) < SIDE * SIDE * percentage // 100
            contestants = _imputers(images, removed, device)
            difference = contestants[OURS]()[:BY_LIBRARY].cpu() - contestants[LIBRARY]()  # type: ignore[index,operator]
            times = seconds(contestants, rounds)
            per_image = {OURS: IMAGES, LIBRARY: BY_LIBRARY}
            medians = [_median(times[name]) / per_image[name] * 1e3 for name in per_image]
            faster = ratio(times, LIBRARY, OURS) * IMAGES / BY_LIBRARY
            table.add_row(
                kind,
                f"{percentage} %",
                *(f"{median:.2f}" for median in medians),
                f"{faster:.1f}",
                f"{difference.abs().max():.0e}",
            )
    return table


def _imputers(images: Tensor, removed: Tensor, device: str) -> Contestants:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    library = NoisyLinearImputer(noise=0)
    there = images.to(device), removed.to(device)
    few = list(zip(images[:BY_LIBRARY], (~removed[:BY_LIBRARY]).float(), strict=True))

    @torch.inference_mode()
    def ours() -> Tensor:
        return impute(*there)

    return {OURS: ours, LIBRARY: lambda: torch.stack([library(*one) for one in few])}


def _curves(device: str, batch_size: int, rounds: int) -> Table:
    backbone = place(random_backbone(MODEL).fold(), spec.Compute(device=device))
    images = _random(2, 3, SIDE, SIDE).to(device)
    maps = _random(2, SIDE, SIDE).to(device)
    targets = torch.zeros(2, dtype=torch.int64, device=device)
    inputs = backbone.normalise(images).repeat(STEPS + 1, 1, 1, 1)

    @torch.inference_mode()
    def forward() -> None:
        for chunk in inputs.split(batch_size):
            backbone(chunk)

    def curve(name: str, baseline: str) -> Tensor:
        probe = Probe(backbone, images, targets, batch_size)
        return curve_probabilities(probe, ranks(maps), name, baseline, STEPS)

    contestants: Contestants = {
        FORWARD: forward,
        "insertion": lambda: curve("insertion", "blur"),
        "deletion": lambda: curve("deletion", "zero"),
    }
    times = seconds(contestants, rounds)
    title = f"curves of {STEPS} steps, {MODEL}, batches of {batch_size}"
    table = _table(title, "", "s per map", f"/ {FORWARD}")
    for name, taken in times.items():
        table.add_row(name, f"{_median(taken) / 2:.3f}", f"{ratio(times, name, FORWARD):.3f}")
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
