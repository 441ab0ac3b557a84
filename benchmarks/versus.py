"""Maps and AD and IC of a folder of pictures: ttame, and what a user would write with other tools.

Each contestant is a command of its own, timed from its start to its end, so that imports, loading
of the classifier and decoding of the pictures count for all. The others are written as their
documentation shows it, the published evaluation of T-TAME as its code does it: one picture at a
time, and a forward pass for each percentage. `python -m benchmarks.versus NAME MODEL FOLDER` works
through a folder that `compare` has made.
"""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from rich.table import Table
from safetensors.torch import save_file
from torch.nn import functional as F

from benchmarks.measure import Cost, begin, cost
from benchmarks.stages import draw
from benchmarks.textbook import textbook_maps
from ttame_core.heads.attention import AttentionHead
from ttame_core.training.coverage import random_backbone

MODELS = ("resnet50", "vit_base_patch16_224")
IMAGES = 256
TRAIN = 32  # pictures beside them, from whose gradients ttame's head follows
BATCH = 8  # of those whose documentation shows batches
TTAME = [sys.executable, "-m", "flows"]
SPEC = """\
name: versus
dataset: {{name: versus, source: {{kind: folder, path: {folder}/images}}}}
backbones:
  - {{name: net, model: {model}, checkpoint: {folder}/net.safetensors, labels: {{noise: 0}}}}
explainers: [ttame]
training: {{min_steps: 0}}
evaluation: {{metrics: [confidence]}}
"""
QUESTION = "SELECT metric, value FROM leaderboard WHERE metric GLOB 'AD@*' OR metric GLOB 'IC@*'"
Answer = dict[str, Any]


# ---- what a user writes with each ------------------------------------------------------------


def gradcam(model: torch.nn.Module, paths: list[Path], view: Callable[..., Any]) -> Answer:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    drops, increases = [], []
    layer, reshape = _layer(model)
    with GradCAM(model, [layer], reshape_transform=reshape) as cam:
        for i in range(0, len(paths), BATCH):
            x = torch.stack([view(Image.open(p).convert("RGB")) for p in paths[i : i + BATCH]])
            targets = [ClassifierOutputSoftmaxTarget(c) for c in model(x).argmax(1).tolist()]
            maps = cam(x, targets)
            drops += [*DropInConfidence()(x, maps, targets, model)]
            increases += [*IncreaseInConfidence()(x, maps, targets, model)]
    return {"AD@100": float(np.mean(drops)), "IC@100": float(np.mean(increases))}


def captum(model: torch.nn.Module, paths: list[Path], view: Callable[..., Any]) -> Answer:
    from captum.attr import LayerAttribution, LayerGradCam

    method = LayerGradCam(model, _layer(model)[0])
    drops, increases = [], []
    for i in range(0, len(paths), BATCH):
        x = torch.stack([view(Image.open(p).convert("RGB")) for p in paths[i : i + BATCH]])
        p, classes = model(x).softmax(1).max(1)
        maps = method.attribute(x, classes, relu_attributions=True)
        maps = LayerAttribution.interpolate(maps, x.shape[-2:], "bilinear").detach()
        maps = maps / maps.amax((1, 2, 3), keepdim=True).clamp(min=1e-8)
        masked = model(x * maps).softmax(1).gather(1, classes[:, None])[:, 0]
        drops += ((p - masked).clamp(min=0) / p).tolist()
        increases += (masked > p).tolist()
    return {"AD@100": sum(drops) / len(drops), "IC@100": sum(increases) / len(increases)}


def torchcam(model: torch.nn.Module, paths: list[Path], view: Callable[..., Any]) -> Answer:
    from torchcam.methods import GradCAM
    from torchcam.metrics import ClassificationMetric

    with GradCAM(model, _layer(model)[0]) as extractor:
        metric = ClassificationMetric(extractor, partial(torch.softmax, dim=-1))
        for path in paths:
            metric.update(view(Image.open(path).convert("RGB"))[None])
    return metric.summary()


def quantus(model: torch.nn.Module, paths: list[Path], view: Callable[..., Any]) -> Answer:
    import quantus
    from captum.attr import Saliency

    scores = []
    for i in range(0, len(paths), BATCH):
        x = torch.stack([view(Image.open(p).convert("RGB")) for p in paths[i : i + BATCH]])
        y = model(x).argmax(1)
        a = Saliency(model).attribute(x, y).sum(1).numpy()
        step = a[0].size // 4
        flipping = quantus.PixelFlipping(features_in_step=step)
        scores += flipping(model, x.numpy(), y.numpy(), a, device="cpu")
    return {"pixel flipping": float(np.mean(scores))}


def published(model: torch.nn.Module, paths: list[Path], view: Callable[..., Any]) -> Answer:
    backbone = random_backbone(model.default_cfg["architecture"])
    head = AttentionHead(
        [tap.channels for tap in backbone.taps], backbone.num_classes, backbone.map_size
    )
    drops: dict[int, list[float]] = {100: [], 50: [], 15: []}
    for path in paths:
        x = view(Image.open(path).convert("RGB"))[None]
        with torch.inference_mode():
            logits, features = backbone.features(x)
            p, c = logits.softmax(1).max(1)
            mask = F.interpolate(textbook_maps(head.eval(), features, c), x.shape[-2:])
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            for percent in drops:
                least = mask.flatten().quantile(1 - percent / 100)
                masked = backbone(x * mask.where(mask >= least, 0)).softmax(1)[0, c]
                drops[percent].append(float((p - masked) / p))
    shares = {f"AD@{k}": sum(max(d, 0) for d in v) / len(v) for k, v in drops.items()}
    return shares | {f"IC@{k}": sum(d < 0 for d in v) / len(v) for k, v in drops.items()}


OTHERS: dict[str, tuple[Callable[..., Answer], str, str]] = {
    "pytorch-grad-cam": (gradcam, "pytorch_grad_cam", "its metrics: 100 %"),
    "Captum": (captum, "captum", "AD and IC by hand: 100 %"),
    "torchcam": (torchcam, "torchcam", "its metric: 100 %"),
    "Quantus": (quantus, "quantus", "has no AD and IC: pixel flipping in 4 steps"),
    "published code": (published, "torch", "100, 50, 15 %"),
}


# ---- the run -----------------------------------------------------------------------------------


def _layer(model: Any) -> tuple[torch.nn.Module, Callable[..., torch.Tensor] | None]:
    """The layer that the documentations choose, and for transformers what undoes the tokens."""
    if hasattr(model, "layer4"):
        return model.layer4[-1], None
    side = model.patch_embed.grid_size[0]

    def unfold(tokens: torch.Tensor) -> torch.Tensor:
        own = tokens[:, -side * side :]
        return own.reshape(len(own), side, side, -1).permute(0, 3, 1, 2)

    return model.blocks[-1].norm1, unfold


def _alone(name: str, model: str, folder: str) -> None:
    """Work through the folder with one of the others, and print what it finds."""
    network = timm.create_model(model, checkpoint_path=f"{folder}/net.safetensors").eval()
    view = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    print(
        json.dumps(
            OTHERS[name][0](network, sorted(Path(folder, "images/test").rglob("*.jpg")), view)
        )
    )


def compare(models: list[str], images: int) -> Iterator[Table]:
    """One table a classifier. images: number of pictures that are explained."""
    for model in models:
        table = Table(title=f"{model}, {images} pictures, from the command to the answer")
        for name in ("", "images/s", "processor s", "peak MiB", "lines", "AD and IC"):
            table.add_column(name, justify="left" if name in ("", "AD and IC") else "right")
        with tempfile.TemporaryDirectory() as folder:
            _prepare(Path(folder), model, images)
            for name, cells in _rows(folder, model, images):
                table.add_row(name, *cells)
        yield table


def _prepare(folder: Path, model: str, images: int) -> None:
    """Write the pictures, some more for the head, and a classifier with random weights."""
    for seed, (split, number) in enumerate((("train", TRAIN), ("test", images))):
        draw(folder / "images" / split, number, seed)
    torch.manual_seed(0)
    save_file(timm.create_model(model).state_dict(), folder / "net.safetensors")
    (folder / "spec.yaml").write_text(SPEC.format(folder=folder, model=model))


def _rows(folder: str, model: str, images: int) -> Iterator[tuple[str, list[str]]]:
    workspace = ["--workspace", f"{folder}/workspace"]
    audit = [*TTAME, "audit", f"{folder}/spec.yaml", *workspace]
    ask = [*TTAME, "query", QUESTION, *workspace]
    lines = len(SPEC.splitlines()) + 2  # and the two commands
    yield "ttame, from nothing", _row([audit, ask], images, lines, "100, 50, 15 %")
    for made in ("maps", "scores", "explainers", "audits"):
        shutil.rmtree(f"{folder}/workspace/{made}")
    yield "ttame, with shards and head", _row([audit, ask], images, lines, "100, 50, 15 %")
    for name, (function, package, words) in OTHERS.items():
        if find_spec(package) is None:
            yield name, ["", "", "", "", f"{package} is not installed"]
            continue
        command = [sys.executable, "-m", "benchmarks.versus", name, model, folder]
        code = [line for line in inspect.getsource(function).splitlines()[1:] if line.strip()]
        yield name, _row([command], images, len(code), words)


def _row(commands: list[list[str]], images: int, lines: int, words: str) -> list[str]:
    """Run commands one after another; the cells of their row."""
    costs: list[Cost] = []
    for command in commands:
        taken, said = cost(begin(command, stderr=subprocess.PIPE))
        if taken.code:
            return ["", "", "", str(lines), f"fails: {said.strip().splitlines()[-1][:60]}"]
        costs.append(taken)
    rate = images / sum(taken.seconds for taken in costs)
    busy, peak = sum(taken.busy for taken in costs), max(taken.peak for taken in costs)
    return [f"{rate:.2f}", f"{busy:.0f}", f"{peak:.0f}", str(lines), words]


if __name__ == "__main__":
    _alone(*sys.argv[1:])
