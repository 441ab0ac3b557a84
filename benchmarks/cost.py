"""What an explanation and a training step cost beside plain inference, with 1,000 classes.

And what it brings that this process keeps what it frees, which all that is compared has.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from rich.table import Table

from benchmarks.measure import Contestants, apart, peak_mib, ratio, seconds
from benchmarks.textbook import rise, textbook_maps, textbook_step
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import keep_freed_memory, place, precision_of
from ttame_core.data.loader import Batch
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.attention import AttentionHead
from ttame_core.perturbation.masking import min_max
from ttame_core.training.coverage import random_backbone
from ttame_core.training.first_pass import first_pass, keep_passes
from ttame_core.training.head import optimiser, training_losses

MODELS = (
    "resnet50",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "vit_base_patch16_224",
)
RISE_MASKS, RISE_TIMED = 4000, 16
PLAIN = "plain inference"
OURS, TEXTBOOK = "ttame", "textbook head"
LOW = "bfloat16"
STEP, TEXTBOOK_STEP = "training step", "textbook training step"
KEPT_STEP = "training step, first pass kept"


def contestants(model: str, batch_size: int, device: str) -> Contestants:
    """Everything that is compared on one backbone, each as a function of nothing."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    backbone = random_backbone(model).to(device)  # as timm makes it
    ours = place(random_backbone(model).fold(), spec.Compute(device=device))
    channels = [tap.channels for tap in backbone.taps]
    head = AttentionHead(channels, backbone.num_classes, backbone.map_size).to(device)
    trained = AttentionHead(channels, backbone.num_classes, backbone.map_size).to(device).eval()
    folded = trained.fold()
    settings = spec.Training(recipe="paper")
    update = optimiser(head, settings)
    low = precision_of(spec.Compute(precision="auto"), torch.device(device))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch_size, 3, *backbone.preprocessing.input_size, generator=generator)
    images = images.to(device)
    batch = Batch.bare([str(number) for number in range(batch_size)], images)
    explainer = TTame(ours)
    on_cpu = device == "cpu"  # a GPU makes the pass again
    kept = keep_passes(explainer, [batch], batch_size, 1) if on_cpu else None
    last = backbone.taps[-1]
    layer = backbone.model.get_submodule(last.module)
    layer = getattr(layer, "norm1", layer) if last.layout == "tokens" else layer
    cam = GradCAM(backbone, [layer], reshape_transform=last.feature_map)
    cam.compute_input_gradient = True

    @torch.inference_mode()
    def plain() -> torch.Tensor:
        return backbone(backbone.normalise(images))

    @torch.inference_mode()
    def explain(network: Backbone, maps: Callable[..., torch.Tensor]) -> torch.Tensor:
        logits, features = network.features(network.normalise(images))
        return min_max(maps(features, logits.argmax(dim=1)))

    def gradcam() -> object:
        inputs = backbone.normalise(images)
        return cam(inputs, [ClassifierOutputTarget(int(t)) for t in plain().argmax(dim=1)])

    def train(loss: Callable[[], torch.Tensor]) -> None:
        update.zero_grad(set_to_none=True)
        loss().backward()
        update.step()

    def ours_step() -> torch.Tensor:
        return training_losses(explainer, head, first_pass(explainer, images), settings).loss

    def kept_step() -> torch.Tensor:
        return training_losses(explainer, head, kept.of(batch), settings).loss

    def in_low(run: Callable[[], object]) -> object:
        with torch.autocast(device, low):
            return run()

    lower: Contestants = {
        f"{PLAIN}, {LOW}": lambda: in_low(plain),
        f"{OURS}, {LOW}": lambda: in_low(lambda: explain(ours, folded)),
        f"{STEP}, {LOW}": lambda: train(lambda: in_low(ours_step)),
    }
    return {
        PLAIN: plain,
        OURS: lambda: explain(ours, folded),
        TEXTBOOK: lambda: explain(backbone, lambda f, t: textbook_maps(trained, f, t)),
        "Grad-CAM (grad-cam)": gradcam,
        f"RISE, {RISE_MASKS:,} masks": lambda: rise(backbone, images, RISE_TIMED, batch_size),
        STEP: lambda: train(ours_step),
        **({KEPT_STEP: lambda: train(kept_step)} if kept else {}),
        TEXTBOOK_STEP: lambda: train(lambda: textbook_step(backbone, head, images, settings)),
        **(lower if low is torch.bfloat16 else {}),
    }


def compare(model: str, batch_size: int, rounds: int, device: str, memory: bool) -> Table:
    """One backbone's table."""
    times = seconds(contestants(model, batch_size, device), rounds)
    table = Table(title=f"{model}, batches of {batch_size}")
    for name in ("", "images/s", "times plain", "peak MiB"):
        table.add_column(name, justify="left" if not name else "right")
    for name, taken in times.items():
        scale = RISE_MASKS / RISE_TIMED if name.startswith("RISE") else 1
        speed = batch_size / sorted(taken)[len(taken) // 2] / scale
        peak = peak_mib(contestants, (model, batch_size, device), name) if memory else float("nan")
        of_plain = ratio(times, name, PLAIN) * scale
        table.add_row(name, f"{speed:.3g}", f"{of_plain:.3f}", f"{peak:.0f}")
    return table


def memory_kept(models: Sequence[str], batch_size: int, rounds: int) -> Table:
    """A plain forward pass in a process that gives back what it frees, and in one that keeps it."""
    table = Table(title=f"plain inference on the CPU, images/s, batches of {batch_size}")
    for name in ("", "memory given back", "kept", "faster"):
        table.add_column(name, justify="left" if not name else "right")
    for model in models:
        given_back, kept = (
            statistics.median(apart(_passes, model, batch_size, rounds, keep) for _ in range(3))
            for keep in (False, True)
        )
        cells = (f"{given_back:.1f}", f"{kept:.1f}", f"{kept / given_back - 1:.0%}")
        table.add_row(model, *cells)
    return table


def _passes(model: str, batch_size: int, rounds: int, keep: bool) -> float:
    """Images per second of the network as timm makes it."""
    if keep:
        keep_freed_memory()
    backbone = random_backbone(model)
    images = torch.rand(batch_size, 3, *backbone.preprocessing.input_size)
    with torch.inference_mode():
        taken = seconds({PLAIN: lambda: backbone(images)}, rounds)[PLAIN]
    return batch_size / statistics.median(taken)
