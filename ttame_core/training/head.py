"""Training of heads on a frozen backbone (T-TAME, section III-C and III-D, and its kin)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import in_smaller_batches, in_whole_batches
from ttame_core.errors import UserError
from ttame_core.heads.files import write_head
from ttame_core.metrics import drop, increase, masked_probabilities
from ttame_core.perturbation.masking import min_max, resize
from ttame_core.seeding import seed_of_step
from ttame_core.training.checkpoint import load_checkpoint, remove_checkpoint, save_checkpoint
from ttame_core.training.losses import area_loss, variation_loss
from ttame_core.training.objectives import objective_of
from ttame_core.training.orders import TrainingOutput, TrainingShards

if TYPE_CHECKING:
    from accelerate import Accelerator  # slow to import

    from ttame_core.explainers.trained import Trained

RECORDS = 500  # rows of loss history a training leaves, whatever its length
VALIDATIONS = 8  # at most, spread over the epochs, and one at the end
VALIDATED_KEEP = (100.0, 50.0, 15.0)
TERMS = ("loss", "variation", "area", "confidence")

NOISE_CELLS = 4  # a side: blobs as large as objects
NOISY = 0.25  # share of the steps in which the noise on class maps fades out

PAPER_STEPS = 320_000  # 8 epochs of ImageNet in batches of 32
FEW_STEPS = 20_000

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Losses:
    """Scalars: the weighted sum that is minimised, and its terms before weighting.

    confidence: what `training.objective` says.
    """

    loss: Tensor
    variation: Tensor
    area: Tensor
    confidence: Tensor


def few_steps(settings: spec.Training, train: Sequence[tuple[str, int]]) -> str | None:
    """A warning where the published recipe has too few steps to work; None where all is well."""
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
    """The settings with the epochs that `min_steps` makes of them, and the batches of an epoch."""
    batches = sum(samples for _, samples in train) // settings.batch_size
    return settings_for(settings, batches), batches


def settings_for(settings: spec.Training, batches: int) -> spec.Training:
    """The settings with the epochs that `min_steps` makes of them, `batches` in each."""
    enough = max(settings.epochs, -(-settings.min_steps // max(batches, 1)))
    return settings.model_copy(update={"epochs": enough, "min_steps": 0})


def masking_mode(backbone: Backbone, settings: spec.Training) -> str:
    """Return the way of masking that a training uses: that of the backbone where it is `auto`."""
    return backbone.masking if settings.masking == "auto" else settings.masking


def smooth_noise(
    settings: spec.Training,
    images: int,
    step: int,
    total: int,
    size: tuple[int, int],
    part: tuple[int, int] = (0, 1),
) -> Tensor | None:
    """What is added to the class maps of a batch at a step, from 0: (B, 1, h, w); None for nothing.

    Where attention is near 0 or 1 its gradient vanishes: a class whose map settled beside its
    evidence would stay there. Under noise every place is seen now and then. The noise fades out
    linearly over the first NOISY of the steps. It follows from the seed and the step alone.

    images: B. part: (i, n) where they are the i-th of n equal shares of the batch (`load_batches`).
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
    images: Tensor,
    settings: spec.Training,
    noise: Tensor | None = None,
    accelerator: Accelerator | None = None,
) -> Losses:
    """One forward without gradient for model truth and features, one with, of the masked images.

    explainer: says what its head reads and what is masked. images: (B, 3, H, W) in [0, 1]. noise:
    (B, 1, h, w), added to the class maps. accelerator: where images are this process's share of a
    batch. Gradients reach the head alone; through the backbone they pass with respect to its input,
    or to the features that are masked, only.
    """
    backbone = explainer.backbone
    with torch.no_grad():
        logits, features = backbone.features(backbone.normalise(images))
        truth = logits.argmax(dim=1)
        if settings.labels == "permuted":
            truth = others_classes(truth, accelerator)
        features = explainer.read(images, features)
    class_maps = head(features, truth).float()
    if noise is not None:
        class_maps = class_maps + noise.to(class_maps.device)
    attention = torch.sigmoid(class_maps)
    mode = masking_mode(backbone, settings)
    masked_logits = explainer.masked_logits(images, class_maps, attention, mode)
    variation = variation_loss(attention[:, 0])
    area = area_loss(attention[:, 0], settings.area_exponent)
    objective = objective_of(settings.objective)
    confidence = objective.term(masked_logits.float(), logits.float(), truth)
    loss = (
        settings.lambda_variation * variation
        + settings.lambda_area * area
        + settings.lambda_confidence * confidence
    )
    return Losses(loss, variation, area, confidence)


def others_classes(classes: Tensor, accelerator: Accelerator | None = None) -> Tensor:
    """Return for each image the class of another image of the batch, which is in random order.

    Args:
        classes: (B,) of the images, or of this process's share of them, as `load_batches` divides
            a batch.
        accelerator: of the processes that share the batch.

    Returns:
        (B,), each from the image before in the whole batch.

    Raises:
        UserError: there is one image in the whole batch.
    """
    place, shares = 0, 1
    if accelerator is not None:
        place, shares = accelerator.process_index, accelerator.num_processes
        classes = accelerator.gather(classes).view(shares, -1).T.flatten()
    if len(classes) < 2:
        raise UserError(
            "training.labels is permuted, which gives each image the class of another, and a batch "
            "has one image: give batches of two or more"
        )
    return classes.roll(1)[place::shares]


def optimiser(head: nn.Module, settings: spec.Training) -> torch.optim.Optimizer:
    """Weight decay on weights, none on biases."""
    named = list(head.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named if not n.endswith("bias")]},
        {"params": [p for n, p in named if n.endswith("bias")], "weight_decay": 0.0},
    ]
    rate, decay = settings.learning_rate, settings.weight_decay
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
        shards: to learn from and to validate on.
        output: where the head is written.
        explainer: whose head it is.
        settings: of the training.
        progress: is told the step, the number of steps, and the losses in words.
        accelerator: in each of several processes that train together, each with its share of every
            batch; the first of them writes. The head's batch norm sees whole batches on GPUs, and
            each process's share on the CPU.

    Raises:
        UserError: there is too little data, or the loss is no longer finite.
    """
    shards.check_one_batch(settings.batch_size, "training.batch_size")
    settings, batches = with_enough_epochs(settings, shards.train)
    view, device = explainer.backbone.preprocessing, explainer.backbone.device
    run = HeadRun(explainer, settings, batches, accelerator)
    first = run.part[0] == 0
    run.resume(output)

    def read(epoch: int, skip: int) -> Iterator[Tensor]:
        order = settings.seed, epoch
        for batch in shards.training_batches(view, settings.batch_size, order, skip, run.part):
            yield batch.float_images(device)

    def validation(size: int) -> Iterator[Tensor]:
        for batch in shards.validation_batches(view, size):
            yield batch.float_images(device)

    def after_step() -> None:
        if first and run.step % settings.checkpoint_steps == 0 and run.step % batches:
            run.save(output)

    def after_epoch(epoch: int) -> None:
        def validate(part: spec.Compute) -> None:
            run.validate(validation(part.batch_size), epoch, part.batch_size)

        if first and _is_validated(epoch + 1, settings.epochs):
            in_smaller_batches(shards.compute, validate)
        if first:
            run.save(output)

    short = (
        f"the training shards of data set {shards.dataset} hold fewer samples than its index says: "
        "run `ttame shard` again"
    )
    with in_whole_batches(f"the head for {explainer.backbone.name}", "training.batch_size"):
        run.train(read, short, progress, after_step, after_epoch)
    if not first:
        return
    write_head(output.lake, output.folder, run.head, run.history, output.made_from)
    remove_checkpoint(output.lake, output.folder)


def _is_validated(epoch: int, epochs: int) -> bool:
    """Whether the validation split is looked at after this epoch, counted from 1."""
    return epoch == epochs or epoch % -(-epochs // VALIDATIONS) == 0


class HeadRun:
    """One training of a head, wherever its images come from.

    It holds what changes: the head, its optimiser and schedule, the step, the history. batches: of
    an epoch; `settings.epochs` is how many of those there are.
    """

    def __init__(
        self,
        explainer: Trained,
        settings: spec.Training,
        batches: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.explainer, self.settings, self.batches = explainer, settings, batches
        self.total = total = settings.epochs * batches
        self.backbone = backbone = explainer.backbone
        self.accelerator = accelerator
        self.part = (0, 1)  # of every batch
        if accelerator is not None:
            self.part = (accelerator.process_index, accelerator.num_processes)
        with torch.random.fork_rng(devices=[]):  # heads begin on the CPU
            torch.random.default_generator.manual_seed(settings.seed)
            self.head = explainer.new_head(settings.map).train()
        self.learner: nn.Module = self.head  # what is trained: the head, or its wrapping
        if accelerator is not None:
            if backbone.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(self.head)
            self.learner = accelerator.prepare_model(self.head)
        self.optimizer = optimiser(self.head, settings)
        self.schedule = OneCycleLR(self.optimizer, settings.learning_rate, total_steps=total)
        scaled = backbone.precision is torch.float16
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=scaled)
        self.step = self.saved = 0  # the last step, and the one of the last checkpoint
        self.history: list[dict[str, Any]] = []
        self.sums = torch.zeros(len(TERMS), device=backbone.device)  # since the last record
        self.summed = 0

    def train(
        self,
        read: Callable[[int, int], Iterable[Tensor]],
        short: str,
        progress: Progress | None = None,
        after_step: Callable[[], None] = lambda: None,
        after_epoch: Callable[[int], None] = lambda epoch: None,
    ) -> None:
        """All the steps that are left.

        read: the batches of an epoch, from 0, after its first so many: images (B, 3, H, W) in
        [0, 1] on the backbone's device. short: what UserError says where they are too few.
        """
        epochs = self.settings.epochs
        while self.step < self.total:
            epoch, done = divmod(self.step, self.batches)
            for images in islice(read(epoch, done), self.batches - done):
                losses = self.advance(images, epoch)
                after_step()
                if progress and losses is not None:
                    text = " ".join(f"{term} {value:.3f}" for term, value in losses.items())
                    progress(self.step, self.total, f"epoch {epoch + 1}/{epochs} {text}")
            if self.step != (epoch + 1) * self.batches:
                raise UserError(short)
            after_epoch(epoch)

    def advance(self, images: Tensor, epoch: int) -> dict[str, float] | None:
        """One optimiser step; every so often the mean loss terms since the last time."""
        size = self.head.map_size
        noise = smooth_noise(self.settings, len(images), self.step, self.total, size, self.part)
        with self.backbone.autocast():
            losses = training_losses(
                self.explainer, self.learner, images, self.settings, noise, self.accelerator
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.step += 1
        self.sums += torch.stack([getattr(losses, term).detach() for term in TERMS])
        self.summed += 1
        if self.step % -(-self.total // RECORDS) and self.step != self.total:
            return None
        sums = self.sums.clone()
        if self.accelerator is not None:
            sums = self.accelerator.reduce(sums, "mean")
        means = dict(zip(TERMS, (sums / self.summed).tolist(), strict=True))
        self.sums.zero_()
        self.summed = 0
        self._check(means["loss"])
        for term, value in means.items():
            name = self.settings.objective if term == "confidence" else term
            self._record(epoch, name, value)
        return means

    def _record(self, epoch: int, term: str, value: float) -> None:
        """Add a row to the history."""
        self.history.append({"epoch": epoch, "step": self.step, "term": term, "value": value})

    def _check(self, loss: float) -> None:
        """Raise UserError where a loss since the last check, or a weight, is not finite."""
        if isfinite(loss) and all(
            bool(v.isfinite().all()) for v in self.head.state_dict().values()
        ):
            return
        kept = "."
        if self.saved:
            kept = f"; the same settings would go on from the checkpoint of step {self.saved}."
        raise UserError(
            f"the loss of the head for {self.backbone.name} is no longer finite at step "
            f"{self.step}: lower training.learning_rate{kept}"
        )

    @torch.inference_mode()
    def validate(self, batches: Iterable[Tensor], epoch: int, batch_size: int) -> None:
        """Add AD and IC on up to `validation_samples` of the images; batches: as of `train`."""
        left = self.settings.validation_samples
        folded = self.head.fold()
        drops, increases = [], []
        for batch in batches:
            if left <= 0:
                break
            images = batch[:left]
            left -= len(images)
            logits, features = self.backbone.features(self.backbone.normalise(images))
            p, truth = logits.float().softmax(dim=1).max(dim=1)
            read = self.explainer.read(images, features)
            maps = min_max(folded(read, truth)[:, 0])
            p_masked = masked_probabilities(
                self.backbone, images, maps, truth, VALIDATED_KEEP, batch_size
            )
            drops.append(drop(p[:, None], p_masked))
            increases.append(increase(p[:, None], p_masked))
        if not drops:
            return
        for name, values in (("AD", drops), ("IC", increases)):
            means = torch.cat(values).mean(dim=0).tolist()
            for keep, value in zip(VALIDATED_KEEP, means, strict=True):
                self._record(epoch, f"{name}@{keep:g}", value)

    def save(self, output: TrainingOutput) -> None:
        """Save the state, from which an interrupted training goes on."""
        self._check(float(self.sums.sum()))
        state = {
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "history": self.history,
            "sums": self.sums,
            "summed": self.summed,
        }
        save_checkpoint(output, state)
        self.saved = self.step

    def resume(self, output: TrainingOutput) -> None:
        """Go on from the checkpoint of this very training, if there is one."""
        state = load_checkpoint(output, self.backbone.device)
        if state is None:
            return
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = self.saved = state["step"]
        self.history = state["history"]
        self.sums, self.summed = state["sums"], state["summed"]
