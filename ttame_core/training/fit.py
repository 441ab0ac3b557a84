"""Training of a classifier on the data set, for users who have data and no classifier yet.

AD and IC show a classifier images with black surroundings. A classifier that never saw such images
answers at random, and the metrics then rank nothing. So a part of the training images is occluded:
by smooth random masks, and in annotated images by blacking out all but the object and some
surroundings. At the beginning, annotated images show only their objects; otherwise small
transformers take several times as long to begin to learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from ttame_core import spec
from ttame_core.backbones import create_model, preprocessing_of
from ttame_core.backbones.devices import in_smaller_batches, in_whole_batches
from ttame_core.data.loader import Batch
from ttame_core.data.objects import inside_boxes
from ttame_core.lake import fingerprint
from ttame_core.lake.schemas import HISTORY
from ttame_core.perturbation.masking import keep_most_relevant, min_max
from ttame_core.seeding import seed_of_step
from ttame_core.training.checkpoint import remove_checkpoint
from ttame_core.training.loop import Loop, Progress
from ttame_core.training.orders import TrainingOutput, TrainingShards

WARM_UP = 0.15  # share of the steps in which the learning rate rises
OBJECT_SHARE = 0.75  # of the occluded images that have annotations: all but the object is hidden
OBJECTS_FIRST = 0.1  # share of the steps in which annotated images show nothing but their objects
LARGEST_GRADIENT = 1.0  # norm to which a gradient is clipped
OPTIMIZERS = {"adamw": "adamw", "muon": "nmuon"}  # timm's names
NOISE_CELLS = (3, 4, 6, 8, 12, 24)
BLUR_SHARES = (0.03, 0.05, 0.1, 0.14)  # of the image's side: margins around an object


def objects_of(batch: Batch, size: tuple[int, int]) -> Tensor:
    """Return (B, 1, H, W) float32: 1 on annotated objects, 0 elsewhere and without annotations."""
    boxed = inside_boxes(batch.boxes, size)
    masks = [
        box if mask is None else mask > 0 for box, mask in zip(boxed, batch.masks, strict=True)
    ]
    return torch.stack(masks)[:, None].float()


def occlude(
    images: Tensor,
    objects: Tensor,
    share: float,
    generator: torch.Generator,
    objects_only: bool = False,
) -> Tensor:
    """Black out parts of some images, as AD and IC do.

    An occluded image keeps 10–95 % of its pixels under a smooth random mask. Three quarters of the
    annotated images (OBJECT_SHARE) keep the 8–38 % in and around their objects instead. Half of the
    masks are soft.

    Args:
        images: (B, 3, H, W) in [0, 1].
        objects: (B, 1, H, W) in {0, 1}.
        share: share of the images that are occluded, in [0, 1].
        generator: generator of the random masks.
        objects_only: whether all annotated images show only their objects.
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
    left = torch.where(by_object, uniform(0.08, 0.38), uniform(0.10, 0.95)).flatten()
    mask = torch.cat(
        [keep_most_relevant(r, [100 * float(k)]) for r, k in zip(relevance, left, strict=True)]
    )
    mask = torch.where(uniform(0, 1) < 0.5, mask, (mask > 0).float())
    occluded = (uniform(0, 1) < share) | (by_object & objects_only)
    return torch.where(occluded, images * mask, images)


def _blur(x: Tensor, kernel: int) -> Tensor:
    return F.avg_pool2d(x, kernel, 1, kernel // 2, count_include_pad=False)


def augment(
    images: Tensor, objects: Tensor, settings: spec.Fit, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crop, flip and change brightness and contrast of images at random.

    Args:
        images: (B, 3, H, W) in [0, 1].
        objects: (B, 1, H, W), which are cropped and flipped with the images.
        settings: settings, such as `crop_scale`, the least share of the area in a crop.
        generator: generator of random numbers.

    Returns:
        The images and the objects.
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
        shards: shards to learn from and to validate on.
        output: folder for the weights.
        settings: the backbone's section of a spec, with `fit`. Training starts from scratch, or
            from the pretrained weights or the checkpoint that the section names.
        num_classes: number of the data set's classes.
        device: device that computes.
        progress: called with the step, the number of steps, and the loss in words.

    Raises:
        UserError: there is too little data, or the loss is no longer finite.
    """
    run = FitRun(shards, settings, num_classes, device)

    def after_epoch(epoch: int) -> None:
        accuracy = in_smaller_batches(shards.compute, run.accuracy)
        if accuracy is not None:
            run.record(epoch, "accuracy", accuracy)

    with in_whole_batches(run.name, "fit.batch_size"):
        run.train(run.read, shards.too_few, progress, output, after_epoch)
    weights = {
        k: (v.half() if v.is_floating_point() else v).contiguous().cpu()
        for k, v in run.network.state_dict().items()
    }
    content = save(weights, {"fingerprint": fingerprint(output.made_from)})
    with output.lake.create(f"{output.folder}/weights.safetensors") as temporary:
        temporary.write_bytes(content)
    identity = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = f"{output.folder}/history.parquet"
    output.lake.write_parquet(path, run.history, HISTORY, output.made_from, weights=identity)
    remove_checkpoint(output.lake, output.folder)


class FitRun(Loop[tuple[Tensor, Tensor]]):
    """One training of a classifier, on batches of images (B, 3, H, W) in [0, 1] and labels (B, L).

    Classes that do not exclude each other (`outputs: sigmoid`) have a logistic loss each.
    """

    section = "fit"

    def __init__(
        self,
        shards: TrainingShards,
        settings: spec.Backbone,
        num_classes: int,
        device: torch.device,
    ) -> None:
        from timm.optim import create_optimizer_v2  # slow to import, with torchvision below it

        assert settings.fit is not None
        self.shards, self.device, self.fit = shards, device, settings.fit
        self.exclusive = settings.outputs != "sigmoid"
        shards.check_one_batch(self.fit.batch_size, f"fit.batch_size of {settings.name}")
        batches = sum(samples for _, samples in shards.train) // self.fit.batch_size
        torch.manual_seed(self.fit.seed)
        model = create_model(settings, settings.checkpoint, num_classes).to(device).train()
        self.preprocessing = preprocessing_of(settings, model)
        name, rate = OPTIMIZERS[self.fit.optimizer], self.fit.learning_rate
        optimizer = create_optimizer_v2(model, name, rate, self.fit.weight_decay)
        optimizer.register_step_pre_hook(self._clip)
        steps = self.fit.epochs * batches
        schedule = OneCycleLR(optimizer, rate, total_steps=steps, pct_start=WARM_UP)
        super().__init__(f"classifier {settings.name}", model, schedule, batches)

    def _clip(self, *step: Any) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)

    def read(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch without its first `skip`, augmented and occluded.

        A training of a classifier has checkpoints only between epochs, so `skip` is 0.
        """
        seed = seed_of_step(self.fit.seed, epoch, 100_003)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout and drop path
        view, size, order = self.preprocessing, self.fit.batch_size, (self.fit.seed, epoch)
        batches = self.shards.training_batches(view, size, order, skip)
        for step, batch in enumerate(batches, start=epoch * self.batches + 1):
            objects = objects_of(batch, view.input_size)
            images, objects = augment(batch.float_images(), objects, self.fit, generator)
            first = step <= OBJECTS_FIRST * self.total and self.fit.occlusion > 0
            images = occlude(images, objects, self.fit.occlusion, generator, first)
            yield images.to(self.device), batch.labels.to(self.device)

    def losses(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the cross-entropy of a batch, under this name and as `loss`.

        Of classes that do not exclude each other, it is the mean of the binary ones of the classes.
        """
        images, labels = batch
        on_gpu = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            logits = self.network(self.preprocessing.normalise(images)).float()
        if self.exclusive:
            loss = F.cross_entropy(logits, labels[:, 0])
        else:
            has = torch.zeros(len(logits), logits.shape[1] + 1, device=logits.device)
            has.scatter_(1, labels % has.shape[1], 1)  # UNKNOWN, -1, is the last column
            loss = F.binary_cross_entropy_with_logits(logits, has[:, :-1])
        return {"loss": loss, "cross_entropy": loss}

    @torch.inference_mode()
    def accuracy(self, compute: spec.Compute) -> float | None:
        """Return the percentage of validation samples classified right; None without samples.

        A sample is classified right where the most probable class is one of its labels.
        """
        self.network.eval()
        hits = seen = 0
        for batch in self.shards.validation_batches(self.preprocessing, compute.batch_size):
            images = self.preprocessing.normalise(batch.float_images(self.device))
            predicted = self.network(images).argmax(dim=1)
            hits += int((predicted.cpu()[:, None] == batch.labels).any(dim=1).sum())
            seen += len(batch)
        self.network.train()
        return 100 * hits / seen if seen else None
