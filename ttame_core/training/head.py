"""Training of heads on a frozen backbone, as in T-TAME (sections III-C and III-D) and similar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import in_smaller_batches, in_whole_batches
from ttame_core.errors import UserError
from ttame_core.heads.attention import SharedHead
from ttame_core.heads.files import write_head
from ttame_core.metrics import drop, increase, masked_probabilities
from ttame_core.metrics.probe import Probe
from ttame_core.perturbation.masking import min_max, resize
from ttame_core.seeding import seed_of_step
from ttame_core.training.checkpoint import remove_checkpoint
from ttame_core.training.first_pass import (
    FirstPass,
    KeptPasses,
    first_pass,
    is_repeated,
    keep_passes,
)
from ttame_core.training.loop import Loop, Progress, part_of
from ttame_core.training.losses import DistanceFromStart, area_loss, variation_loss
from ttame_core.training.objectives import objective_of
from ttame_core.training.orders import TrainingOutput, TrainingShards, first_images
from ttame_core.training.start import begin

if TYPE_CHECKING:
    from accelerate import Accelerator  # slow to import

    from ttame_core.explainers.trained import Trained

VALIDATIONS = 8  # validations of a training, at most; the last one is at the end
VALIDATED_KEEP = (100.0, 50.0, 15.0)

SHARED_STEP = 0.2  # of the step size, for a head that starts from gradients, near its end
NOISE_CELLS = 4  # cells of the noise along each side, so that blobs are as large as objects
NOISY = 0.25  # share of the steps in which the noise on class maps fades out

PAPER_STEPS = 320_000  # 8 epochs of ImageNet in batches of 32
FEW_STEPS = 20_000


@dataclass(frozen=True)
class Losses:
    """The losses of a step, which are scalars.

    Attributes:
        loss: weighted sum of the terms, which is minimised.
        variation: variation of the attention maps, before weighting.
        area: area of the attention maps, before weighting.
        confidence: term of `training.objective`, before weighting.
    """

    loss: Tensor
    variation: Tensor
    area: Tensor
    confidence: Tensor


def few_steps(settings: spec.Training, train: Sequence[tuple[str, int]]) -> str | None:
    """Return a warning if the published recipe has too few steps to work; else None."""
    settings, batches = with_enough_epochs(settings, train)
    steps = settings.epochs * batches
    if settings.recipe != "paper" or steps >= FEW_STEPS:
        return None
    return (
        f"this training has {steps} steps; the published recipe is for {PAPER_STEPS} and leaves a "
        "head half trained within a few thousand: leave `recipe: paper` out"
    )


def with_enough_epochs(
    settings: spec.Training, train: Sequence[tuple[str, int]]
) -> tuple[spec.Training, int]:
    """Return the settings with at least `least_steps` steps, and an epoch's number of batches.

    Args:
        settings: section `training` of a spec.
        train: names and sample counts of the training shards.
    """
    batches = sum(samples for _, samples in train) // settings.batch_size
    return settings_for(settings, batches), batches


def settings_for(settings: spec.Training, batches: int) -> spec.Training:
    """Return the settings with enough epochs of `batches` batches for `least_steps` steps."""
    enough = max(settings.epochs, -(-settings.least_steps // max(batches, 1)))
    return settings.model_copy(update={"epochs": enough, "min_steps": 0})


def masking_mode(backbone: Backbone, settings: spec.Training) -> str:
    """Return how a training masks images: as the setting `masking` says; `auto` is the backbone's.

    The result is a `mode` of `Trained.masked_logits`, such as `raw` or `both`.
    """
    return backbone.masking if settings.masking == "auto" else settings.masking


def smooth_noise(
    settings: spec.Training,
    images: int,
    step: int,
    total: int,
    size: tuple[int, int],
    part: tuple[int, int] = (0, 1),
) -> Tensor | None:
    """Return the noise that is added to the class maps of a batch.

    Where attention is near 0 or 1, its gradient vanishes, and a class whose map has settled beside
    its evidence would stay there. With noise, every position is visible now and then. The noise
    fades out linearly over the first quarter of the steps (NOISY), and depends on nothing but the
    seed and the step.

    Args:
        settings: section `training` of a spec.
        images: B, number of images.
        step: number of the step, from 0.
        total: number of steps.
        size: (h, w) of the class maps.
        part: (i, n) where the images are the i-th of n equal shares of the batch (`load_batches`).

    Returns:
        (B, 1, h, w); None where there is no noise any more.
    """
    amount = settings.noise * (1 - step / (NOISY * total))
    if amount <= 0:
        return None
    generator = torch.Generator().manual_seed(seed_of_step(settings.seed, step, 1_000_003))
    place, shares = part
    cells = torch.randn(images * shares, 1, NOISE_CELLS, NOISE_CELLS, generator=generator)
    return amount * resize(cells[place::shares], size)


def training_losses(
    explainer: Trained,
    head: nn.Module,
    whole: FirstPass,
    settings: spec.Training,
    noise: Tensor | None = None,
    accelerator: Accelerator | None = None,
) -> Losses:
    """Compute the losses of a head on images.

    The first pass, without gradients, has given predictions and features; a second pass, with
    gradients, gives the logits of masked images. Gradients pass through the backbone to its input,
    or to the features that are masked, and reach only the head's weights.

    Args:
        explainer: explainer that defines what the head reads and what is masked.
        head: the head.
        whole: the first pass over the images.
        settings: section `training` of a spec.
        noise: (B, 1, h, w), which is added to the class maps; None for none.
        accelerator: accelerator of the processes that share the batch; None for a single process.
    """
    backbone = explainer.backbone
    images, logits, features = whole
    with torch.no_grad():
        truth = backbone.outputs.one_predicted(logits)
        if settings.labels == "permuted":
            truth = others_classes(truth, accelerator)
    class_maps = head(features, truth).float()
    if noise is not None:
        class_maps = class_maps + noise.to(class_maps.device)
    attention = torch.sigmoid(class_maps)
    mode = masking_mode(backbone, settings)
    masked_logits = explainer.masked_logits(images, class_maps, attention, mode)
    variation = variation_loss(attention[:, 0])
    area = area_loss(attention[:, 0], settings.area_exponent)
    objective = objective_of(settings.objective)
    alone = backbone.outputs.alone
    confidence = objective.term(*alone(masked_logits.float(), logits.float(), truth))
    loss = (
        settings.lambda_variation * variation
        + settings.lambda_area * area
        + settings.lambda_confidence * confidence
    )
    return Losses(loss, variation, area, confidence)


def others_classes(classes: Tensor, accelerator: Accelerator | None = None) -> Tensor:
    """Return for each image the class of another image of the batch, which is in random order.

    Args:
        classes: (B,), classes of the images, or of this process's share of them, as `load_batches`
            divides a batch.
        accelerator: accelerator of the processes that share the batch; None for a single process.

    Returns:
        (B,), the class of the image before in the whole batch.

    Raises:
        UserError: the whole batch has one image.
    """
    place, shares = part_of(accelerator)
    if accelerator is not None:
        classes = accelerator.gather(classes).view(shares, -1).T.flatten()
    if len(classes) < 2:
        raise UserError(
            "training.labels is permuted, which gives each image the class of another image in its "
            "batch, but a batch has one image: give batches of two or more"
        )
    return classes.roll(1)[place::shares]


def step_size(head: nn.Module, settings: spec.Training) -> float:
    """Return the largest learning rate of a training: the spec's, or less for a shared head."""
    return settings.learning_rate * (SHARED_STEP if isinstance(head, SharedHead) else 1)


def optimiser(head: nn.Module, settings: spec.Training) -> torch.optim.Optimizer:
    """Make the optimiser of a head, with weight decay on weights and none on biases."""
    named = list(head.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named if not n.endswith("bias")]},
        {"params": [p for n, p in named if n.endswith("bias")], "weight_decay": 0.0},
    ]
    rate, decay = step_size(head, settings), settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, rate, weight_decay=decay)
    return torch.optim.SGD(
        groups, rate, momentum=settings.momentum, nesterov=settings.momentum > 0, weight_decay=decay
    )


def train_head(
    shards: TrainingShards,
    output: TrainingOutput,
    explainer: Trained,
    settings: spec.Training,
    progress: Progress | None = None,
    accelerator: Accelerator | None = None,
) -> None:
    """Train a head and write it: head.safetensors, spec.json, history.parquet.

    The state is saved every `checkpoint_steps` and after each epoch. An interrupted training goes
    on from there, with the batch that would have come next, to the same result.

    Args:
        shards: shards to learn from and to validate on.
        output: folder for the head.
        explainer: explainer that the head belongs to.
        settings: section `training` of a spec.
        progress: called with the step, the number of steps, and the losses in words.
        accelerator: accelerator of the processes that train together, each with its share of every
            batch; the first of them writes. The head's batch norm sees whole batches on GPUs, and
            each process's share on the CPU.

    Raises:
        UserError: there is too little data, or the loss is no longer finite.
    """
    shards.check_one_batch(settings.batch_size, "training.batch_size")
    _, batches = with_enough_epochs(settings, shards.train)
    view, device = explainer.backbone.preprocessing, explainer.backbone.device
    size, part = settings.batch_size, part_of(accelerator)

    def first_batches() -> Iterator[Tensor]:
        for batch in shards.training_batches(view, size, (settings.seed, 0)):
            yield batch.float_images(device)

    run = HeadRun(explainer, settings, batches, first_batches, accelerator)

    @cache
    def kept() -> KeptPasses | None:
        if not is_repeated(run.backbone, run.settings, part[1]):
            return None

        def report(done: int) -> None:
            if progress:
                progress(run.step, run.total, f"{done} of {shards.images} whole images seen")

        batches = shards.stored_batches(view, size)
        return keep_passes(explainer, batches, shards.images, settings.keep_gib, report)

    def read(epoch: int, skip: int) -> Iterator[FirstPass]:
        passes = kept()
        for batch in shards.training_batches(view, size, (settings.seed, epoch), skip, part):
            if passes is None:
                yield first_pass(explainer, batch.float_images(device))
            else:
                yield passes.of(batch)

    def after_epoch(epoch: int) -> None:
        def validate(part: spec.Compute) -> None:
            batches = shards.validation_batches(view, part.batch_size)
            run.validate((b.float_images(device) for b in batches), epoch, part.batch_size)

        if _is_validated(epoch + 1, run.settings.epochs):
            in_smaller_batches(shards.compute, validate)

    with in_whole_batches(run.name, "training.batch_size"):
        run.train(read, shards.too_few, progress, output, after_epoch)
    if run.part[0] == 0:
        if not run.total:
            after_epoch(-1)
        write_head(output.lake, output.folder, run.head, run.history, output.made_from)
        remove_checkpoint(output.lake, output.folder)


def _is_validated(epoch: int, epochs: int) -> bool:
    """Say whether there is a validation after this epoch, counted from 1."""
    return epoch == epochs or epoch % -(-epochs // VALIDATIONS) == 0


class HeadRun(Loop[FirstPass]):
    """A training of a head, on first passes over batches of images on its backbone's device.

    Args:
        explainer: explainer that the head belongs to.
        settings: section `training` of a spec.
        batches: number of batches in an epoch.
        images: function that returns the images (B, 3, H, W) in [0, 1] of the first of those
            batches, the same at each call. The recipe `tuned` and the start from gradients look at
            them.
        accelerator: accelerator of the processes that train together; None for a single process.
    """

    section = "training"

    def __init__(
        self,
        explainer: Trained,
        settings: spec.Training,
        batches: int,
        images: Callable[[], Iterable[Tensor]],
        accelerator: Accelerator | None = None,
    ) -> None:
        settings, start = begin(explainer, settings, images)
        settings = settings_for(settings, batches)
        self.explainer, self.settings = explainer, settings
        self.backbone = backbone = explainer.backbone
        with torch.random.fork_rng(devices=[]):  # heads begin on the CPU
            torch.random.default_generator.manual_seed(settings.seed)
            self.head = (start or explainer.new_head(settings.map, settings.fusion)).train()
        self.distance: DistanceFromStart | None = None
        if isinstance(self.head, SharedHead) and settings.lambda_start:
            self.distance = DistanceFromStart(self.head)
        self.learner: nn.Module = self.head  # what is trained: the head, or its wrapping
        if accelerator is not None:
            if backbone.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(self.head)
            self.learner = accelerator.prepare_model(self.head)
        steps, rate = settings.epochs * batches, step_size(self.head, settings)
        schedule = OneCycleLR(optimiser(self.head, settings), rate, total_steps=max(steps, 1))
        super().__init__(f"the head for {backbone.name}", self.head, schedule, batches, accelerator)
        self.total = steps
        scaled = backbone.precision is torch.float16
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=scaled)
        self.record_steps, self.checkpoint_steps = self.report_steps, settings.checkpoint_steps

    def losses(self, batch: FirstPass) -> dict[str, Tensor]:
        """Return the terms of `training_losses`, and the head's distance from its start.

        The objective's term has the objective's name.
        """
        size = self.head.map_size
        noise = smooth_noise(
            self.settings, len(batch.images), self.step, self.total, size, self.part
        )
        with self.backbone.autocast():
            losses = training_losses(
                self.explainer, self.learner, batch, self.settings, noise, self.accelerator
            )
        terms = {
            "loss": losses.loss,
            "variation": losses.variation,
            "area": losses.area,
            self.settings.objective: losses.confidence,
        }
        if self.distance is not None:
            terms["distance"] = self.distance()
            terms["loss"] = losses.loss + self.settings.lambda_start * terms["distance"]
        return terms

    @torch.inference_mode()
    def validate(self, batches: Iterable[Tensor], epoch: int, batch_size: int) -> None:
        """Add AD and IC on up to `validation_samples` images to the history.

        Args:
            batches: batches of images (B, 3, H, W) in [0, 1].
            epoch: number of the epoch, from 0.
            batch_size: number of images in a forward pass.
        """
        folded = self.head.fold()
        drops, increases = [], []
        for images in first_images(self.settings.validation_samples, batches):
            logits, features = self.backbone.features(self.backbone.normalise(images))
            p, truth = self.backbone.probabilities(logits).max(dim=1)
            read = self.explainer.read(images, features)
            maps = min_max(folded(read, truth)[:, 0])
            probe = Probe(self.backbone, images, truth, batch_size)
            p_masked = masked_probabilities(probe, maps, VALIDATED_KEEP)
            drops.append(drop(p[:, None], p_masked))
            increases.append(increase(p[:, None], p_masked))
        if not drops:
            return
        for name, values in (("AD", drops), ("IC", increases)):
            means = torch.cat(values).mean(dim=0).tolist()
            for keep, value in zip(VALIDATED_KEEP, means, strict=True):
                self.record(epoch, f"{name}@{keep:g}", value)
