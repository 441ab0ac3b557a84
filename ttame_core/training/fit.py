"""Training of a classifier on the data set, for those who have data and no classifier yet.

AD and IC ask a classifier about images whose surroundings are black. One that never saw such
images answers at random, and the metrics then rank nothing. So a part of the training images is
occluded: with smooth random masks, and by blacking out all but the surroundings of the object
where the data set says where it is. The first images show the objects alone: without that, small
transformers take several times as long to begin to learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from typing import Any

import torch
from safetensors.torch import save
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from ttame_core import spec
from ttame_core.backbones import create_model, preprocessing_of
from ttame_core.backbones.devices import in_smaller_batches, in_whole_batches
from ttame_core.data.loader import Batch
from ttame_core.data.objects import inside_boxes
from ttame_core.errors import UserError
from ttame_core.lake import fingerprint
from ttame_core.lake.schemas import HISTORY
from ttame_core.perturbation.masking import keep_most_relevant, min_max
from ttame_core.seeding import seed_of_step
from ttame_core.training.checkpoint import load_checkpoint, remove_checkpoint, save_checkpoint
from ttame_core.training.orders import TrainingOutput, TrainingShards

CHECKED = 100  # steps between looks at whether the loss is finite
WARM_UP = 0.15  # share of the steps in which the learning rate rises
OBJECT_SHARE = 0.75  # of the occluded images that have annotations: all but the object is hidden
OBJECTS_FIRST = 0.1  # share of the steps in which annotated images show nothing but their objects
OPTIMIZERS = {"adamw": "adamw", "muon": "nmuon"}  # timm's names
NOISE_CELLS = (3, 4, 6, 8, 12, 24)
BLUR_SHARES = (0.03, 0.05, 0.1, 0.14)  # of the image's side: margins around an object

Progress = Callable[[int, int, str], None]


def objects_of(batch: Batch, size: tuple[int, int]) -> Tensor:
    """(B, 1, H, W) float32: 1 on annotated objects; all 0 for an image without annotations."""
    boxed = inside_boxes(batch.boxes, size)
    found = [
        box if mask is None else mask > 0 for box, mask in zip(boxed, batch.masks, strict=True)
    ]
    return torch.stack(found)[:, None].float()


def occlude(
    images: Tensor,
    objects: Tensor,
    share: float,
    generator: torch.Generator,
    objects_only: bool = False,
) -> Tensor:
    """Black out parts of a `share` of the images, as AD and IC will.

    images: (B, 3, H, W) in [0, 1]. objects: (B, 1, H, W) in {0, 1}. An occluded image keeps 10–95 %
    of its pixels under a smooth random mask, or, where it is annotated and in OBJECT_SHARE of the
    cases, the 8–38 % in and around its objects; half of the masks are soft. objects_only: all
    annotated images show their objects alone.
    """
    count, side = len(images), images.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    def choose(options: Sequence[Any]) -> Any:
        return options[int(torch.randint(len(options), (1,), generator=generator))]

    cells = choose(NOISE_CELLS)
    coarse = torch.rand(count, 1, cells, cells, generator=generator)
    noise = min_max(F.interpolate(coarse, size=images.shape[2:], mode="bilinear"))
    kernel = 2 * round(choose(BLUR_SHARES) * side / 2) + 1
    around = min_max(_blur(_blur(objects, kernel), kernel)) + 0.05 * noise
    annotated = objects.amax(dim=(1, 2, 3), keepdim=True) > 0
    by_object = annotated & ((uniform(0, 1) < OBJECT_SHARE) | objects_only)
    relevance = min_max(torch.where(by_object, around, noise))
    kept = torch.where(by_object, uniform(0.08, 0.38), uniform(0.10, 0.95)).flatten()
    mask = torch.cat(
        [keep_most_relevant(r, [100 * float(k)]) for r, k in zip(relevance, kept, strict=True)]
    )
    mask = torch.where(uniform(0, 1) < 0.5, mask, (mask > 0).float())
    occluded = (uniform(0, 1) < share) | (by_object & objects_only)
    return torch.where(occluded, images * mask, images)


def _blur(x: Tensor, kernel: int) -> Tensor:
    return F.avg_pool2d(x, kernel, 1, kernel // 2, count_include_pad=False)


def augment(
    images: Tensor, objects: Tensor, settings: spec.Fit, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random crop (of at least `crop_scale` of the area), flips, brightness and contrast.

    images: (B, 3, H, W) in [0, 1]; objects: (B, 1, H, W), moved with them.
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    zoom = uniform(settings.crop_scale, 1).sqrt()
    flip_x = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    flip_y = torch.where(uniform(0, 1) < (0.5 if settings.vertical_flip else 0.0), -1.0, 1.0)
    shift = uniform(-1, 1, 2) * (1 - zoom)[:, None]
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = zoom * flip_x, zoom * flip_y, shift
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    both = torch.cat([images, objects], dim=1)
    moved = F.grid_sample(both, grid, padding_mode="reflection", align_corners=False)
    pictures, where = moved[:, :-1], (moved[:, -1:] > 0.5).float()
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    pictures = (pictures - mean) * uniform(0.7, 1.3, 1, 1, 1) + mean * uniform(0.8, 1.2, 1, 1, 1)
    return pictures.clamp(0, 1), where


def fit_backbone(
    shards: TrainingShards,
    output: TrainingOutput,
    settings: spec.Backbone,
    num_classes: int,
    device: torch.device,
    progress: Progress | None = None,
) -> None:
    """Train a classifier and write it: weights.safetensors (float16) and history.parquet.

    The history holds the loss, and after each epoch the accuracy in percent on the validation
    shards. An interrupted training goes on after its last whole epoch, to the same result.

    Args:
        shards: to learn from and to validate on.
        output: where the weights are written.
        settings: the classifier, and in `fit` how it is trained. Training starts from scratch, or
            from the pretrained weights or the checkpoint that `settings` names.
        num_classes: of the data set.
        device: that computes.
        progress: is told the step, the number of steps, and the loss in words.

    Raises:
        UserError: there is too little data, or the loss is no longer finite.
    """
    fit = settings.fit
    assert fit is not None
    shards.check_one_batch(fit.batch_size, f"fit.batch_size of {settings.name}")
    batches = sum(samples for _, samples in shards.train) // fit.batch_size
    torch.manual_seed(fit.seed)
    model = create_model(settings, settings.checkpoint, num_classes).to(device).train()
    preprocessing = preprocessing_of(settings, model)
    optimizer = create_optimizer_v2(
        model, OPTIMIZERS[fit.optimizer], fit.learning_rate, fit.weight_decay
    )
    schedule = OneCycleLR(
        optimizer, fit.learning_rate, total_steps=fit.epochs * batches, pct_start=WARM_UP
    )
    history: list[dict[str, Any]] = []
    start = 0
    if state := load_checkpoint(output):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start, history = state["epoch"], state["history"]
    for epoch in range(start, fit.epochs):
        seed = seed_of_step(fit.seed, epoch, 100_003)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout and drop path
        total = torch.zeros((), device=device)
        for step, batch in enumerate(
            shards.training_batches(preprocessing, fit.batch_size, (fit.seed, epoch)),
            start=1,
        ):
            images = batch.float_images()
            images, objects = augment(
                images, objects_of(batch, preprocessing.input_size), fit, generator
            )
            first = epoch * batches + step <= OBJECTS_FIRST * fit.epochs * batches
            images = occlude(
                images, objects, fit.occlusion, generator, first and fit.occlusion > 0
            ).to(device)
            with in_whole_batches(f"classifier {settings.name}", "fit.batch_size"):
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    logits = model(preprocessing.normalise(images))
                loss = F.cross_entropy(logits.float(), batch.labels.to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            schedule.step()
            total += loss.detach()
            if not step % CHECKED and not isfinite(float(total)):
                break
            if progress:
                done = epoch * batches + step
                text = f"epoch {epoch + 1}/{fit.epochs} loss {float(total) / step:.3f}"
                progress(done, fit.epochs * batches, text)
        if not isfinite(float(total)) or not all(p.isfinite().all() for p in model.parameters()):
            raise UserError(
                f"the loss of classifier {settings.name} is no longer finite in epoch {epoch + 1}: "
                "lower fit.learning_rate; the checkpoint of the epoch before stays, and the same "
                "settings go on from it"
            )
        at = {"epoch": epoch, "step": (epoch + 1) * batches}
        history += [
            {**at, "term": term, "value": float(total) / batches}
            for term in ("loss", "cross_entropy")
        ]
        accuracy = in_smaller_batches(
            shards.compute, partial(_accuracy, shards, model, preprocessing, device)
        )
        if accuracy is not None:
            history.append({**at, "term": "accuracy", "value": accuracy})
        state = {
            "epoch": epoch + 1,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "history": history,
        }
        save_checkpoint(output, state)
    weights = {
        k: (v.half() if v.is_floating_point() else v).contiguous().cpu()
        for k, v in model.state_dict().items()
    }
    content = save(weights, {"fingerprint": fingerprint(output.made_from)})
    with output.lake.create(f"{output.folder}/weights.safetensors") as temporary:
        temporary.write_bytes(content)
    identity = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = f"{output.folder}/history.parquet"
    output.lake.write_parquet(path, history, HISTORY, output.made_from, weights=identity)
    remove_checkpoint(output.lake, output.folder)


@torch.inference_mode()
def _accuracy(
    shards: TrainingShards,
    model: nn.Module,
    preprocessing: Any,
    device: torch.device,
    compute: spec.Compute,
) -> float | None:
    """Return the percentage of validation samples classified right; None where there are none."""
    model.eval()
    hits = seen = 0
    for batch in shards.validation_batches(preprocessing, compute.batch_size):
        predicted = model(preprocessing.normalise(batch.float_images(device))).argmax(dim=1)
        hits += int((predicted.cpu() == batch.labels).sum())
        seen += len(batch)
    model.train()
    return 100 * hits / seen if seen else None
