"""RISE beside the forward passes that it makes, and beside its textbook form."""

from __future__ import annotations

import torch
from rich.table import Table

from benchmarks.measure import ratio, seconds
from benchmarks.textbook import rise
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import place
from ttame_core.data.loader import Batch
from ttame_core.explainers import forward_pass
from ttame_core.explainers.rise import ROWS, Rise
from ttame_core.training.coverage import random_backbone

MODELS = (("resnet18", 224), ("resnet50", 224), ("test_resnet", 160), ("vit_tiny_patch16_224", 224))
IMAGES = 8
MASKS = ROWS // IMAGES  # of one forward pass; the more, the less is left beside them
BARE, OURS, TEXTBOOK = "forward passes alone", "rise", "textbook RISE"


def compare(rounds: int, device: str) -> Table:
    """Time of RISE of 8 images under 8 masks, in ratio to passes over 64 finished inputs."""
    table = Table(title=f"RISE of {IMAGES} images, {MASKS} masks")
    for name in ("", BARE + ", s", f"{OURS} / bare", f"{TEXTBOOK} / bare"):
        table.add_column(name, justify="left" if not name else "right")
    for model, side in MODELS:
        backbone = place(random_backbone(model, (side, side)).fold(), spec.Compute(device=device))
        times = seconds(_contestants(backbone, side), rounds)
        middle = sorted(times[BARE])[len(times[BARE]) // 2]
        ratios = (ratio(times, name, BARE) for name in (OURS, TEXTBOOK))
        table.add_row(f"{model}, {side}", f"{middle:.3g}", *(f"{r:.3f}" for r in ratios))
    return table


def _contestants(backbone: Backbone, side: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, side, side), generator=generator, dtype=torch.uint8)
    batch = Batch.bare([str(i) for i in range(IMAGES)], images)
    forward = forward_pass(backbone, batch)
    targets = forward.logits.argmax(dim=1, keepdim=True)
    inputs = torch.rand(IMAGES * MASKS, 3, side, side, generator=generator).to(backbone.device)
    explainer = Rise(backbone, {"masks": MASKS})

    @torch.inference_mode()
    def bare() -> torch.Tensor:
        return backbone(inputs)

    return {
        BARE: bare,
        OURS: lambda: explainer.attribute(forward, targets),
        TEXTBOOK: lambda: rise(backbone, forward.images, MASKS, MASKS),
    }
