"""The loop of all trainings: steps, checks of losses, the history, and checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from ttame_core.errors import UserError
from ttame_core.training.checkpoint import load_checkpoint, save_checkpoint
from ttame_core.training.orders import TrainingOutput

if TYPE_CHECKING:
    from accelerate import Accelerator  # slow to import

REPORTS = 500  # number of times that a training reports its losses, whatever its length
STATEFUL = ("network", "optimizer", "schedule", "scaler")  # a checkpoint has their state dicts
COUNTED = ("step", "history", "sums", "summed")

Progress = Callable[[int, int, str], None]
Samples = TypeVar("Samples")


class Loop(ABC, Generic[Samples]):
    """A training, wherever its batches come from; a subclass defines the losses of a step.

    There is a checkpoint every `checkpoint_steps` steps and after each epoch. Where several
    processes train together, the first one writes.

    Attributes:
        section: section of a spec with the settings, for messages.
        step: number of steps that were taken.
        history: rows of `ttame_core.lake.schemas.HISTORY`, one for each term every `record_steps`.
        part: (i, n), the share that this process has of every batch.

    Args:
        name: words for what is trained, for messages.
        network: network whose weights are trained.
        schedule: schedule of the learning rate over all steps, with the optimiser.
        batches: number of batches in an epoch.
        accelerator: accelerator of the processes that train together; None for a single process.
    """

    section: ClassVar[str]

    def __init__(
        self,
        name: str,
        network: nn.Module,
        schedule: OneCycleLR,
        batches: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.name, self.network, self.schedule, self.batches = name, network, schedule, batches
        self.optimizer, self.total = schedule.optimizer, schedule.total_steps
        self.accelerator, self.part = accelerator, part_of(accelerator)
        self.scaler = torch.amp.GradScaler(enabled=False)
        self.report_steps = -(-self.total // REPORTS)
        self.checkpoint_steps = self.record_steps = batches
        self.step = self.saved = 0  # the last step, and that of the last checkpoint
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, Tensor] = {}  # sum of each term since the last record
        self.summed = 0

    @abstractmethod
    def losses(self, batch: Samples) -> dict[str, Tensor]:
        """Return the losses of a batch, scalars by name of their term; `loss` is minimised."""

    def train(
        self,
        read: Callable[[int, int], Iterable[Samples]],
        short: str,
        progress: Progress | None = None,
        output: TrainingOutput | None = None,
        after_epoch: Callable[[int], None] = lambda epoch: None,
    ) -> None:
        """Take all the steps that are left.

        Args:
            read: function of an epoch, from 0, and a number n that returns the epoch's batches
                without its first n.
            short: message of the error for an epoch with too few batches.
            progress: called with the step, the number of steps, and the losses in words.
            output: folder with the checkpoint to go on from and to write; None for no checkpoints.
            after_epoch: called in the first process with the epoch, before its checkpoint.

        Raises:
            UserError: an epoch has too few batches, or the loss is no longer finite.
        """
        if output is not None:
            self._resume(output)
        while self.step < self.total:
            epoch, done = divmod(self.step, self.batches)
            for batch in islice(read(epoch, done), self.batches - done):
                means = self._advance(batch, epoch)
                if self.step % self.checkpoint_steps == 0 and self.step % self.batches:
                    self._save(output)
                if progress and means:
                    text = " ".join(f"{term} {value:.3f}" for term, value in means.items())
                    of_epochs = f"epoch {epoch + 1}/{self.total // self.batches}"
                    progress(self.step, self.total, f"{of_epochs} {text}")
            if self.step != (epoch + 1) * self.batches:
                raise UserError(short)
            if self.part[0] == 0:
                after_epoch(epoch)
                self._save(output)

    def record(self, epoch: int, term: str, value: float) -> None:
        """Add a row to the history."""
        self.history.append({"epoch": epoch, "step": self.step, "term": term, "value": value})

    def _advance(self, batch: Samples, epoch: int) -> dict[str, float]:
        """Take one step; return the mean terms since the last record if the step is reported."""
        losses = self.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["loss"]).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.step += 1
        self.summed += 1
        for term, value in losses.items():
            self.sums[term] = self.sums.get(term, 0) + value.detach()
        is_recorded = self.step % self.record_steps == 0 or self.step == self.total
        if not is_recorded and self.step % self.report_steps:
            return {}
        sums = self.sums if self.accelerator is None else self.accelerator.reduce(self.sums, "mean")
        means = {term: float(value / self.summed) for term, value in sums.items()}
        self._check(means["loss"])
        if is_recorded:
            for term, mean in means.items():
                self.record(epoch, term, mean)
            self.sums, self.summed = {}, 0
        return means

    def _check(self, loss: float) -> None:
        """Check that losses and weights are finite, or raise UserError.

        Args:
            loss: sum or mean of the losses since the last record.
        """
        weights = self.network.state_dict().values()
        if isfinite(loss) and all(bool(value.isfinite().all()) for value in weights):
            return
        mend = f"lower {self.section}.learning_rate"
        if self.saved:
            mend += f"; the same settings would go on from the checkpoint of step {self.saved}"
        raise UserError(f"the loss of {self.name} is no longer finite at step {self.step}: {mend}.")

    def _save(self, output: TrainingOutput | None) -> None:
        """Write a checkpoint in the first process."""
        if output is None or self.part[0] != 0:
            return
        self._check(float(sum(self.sums.values())))
        state = {name: getattr(self, name).state_dict() for name in STATEFUL}
        state |= {name: getattr(self, name) for name in COUNTED}
        save_checkpoint(output, state)
        self.saved = self.step

    def _resume(self, output: TrainingOutput) -> None:
        """Load the checkpoint of this very training, if there is one."""
        state = load_checkpoint(output)
        if state is None:
            return
        for name in STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        for name in COUNTED:
            setattr(self, name, state[name])
        device = next(self.network.parameters()).device
        self.sums = {term: value.to(device) for term, value in self.sums.items()}
        self.saved = self.step


def part_of(accelerator: Accelerator | None) -> tuple[int, int]:
    """Return (i, n) for the i-th of n processes that train together; (0, 1) for one alone."""
    if accelerator is None:
        return 0, 1
    return accelerator.process_index, accelerator.num_processes
