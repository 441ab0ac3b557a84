"""The loop that trainings share: steps, finite losses, their history, checkpoints to go on from."""

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

REPORTS = 500  # times that a training tells its losses, whatever its length
STATEFUL = ("network", "optimizer", "schedule", "scaler")  # in a checkpoint, with these
COUNTED = ("step", "history", "sums", "summed")

Progress = Callable[[int, int, str], None]
Samples = TypeVar("Samples")


class Loop(ABC, Generic[Samples]):
    """One training under way, wherever its batches come from.

    A subclass says what the losses of a step are. The loop holds what changes: the weights of
    `network`, the optimiser and its `schedule` over all steps, the `step`, and the `history` (rows
    of `ttame_core.lake.schemas.HISTORY`, every `record_steps`). There is a checkpoint every
    `checkpoint_steps` and after each epoch of so many `batches`. Where several processes train
    together, each has `part` (i, n) of every batch, and the first writes. `name` says what is
    trained, and `section` where a spec sets it, in messages.
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
        self.sums: dict[str, Tensor] = {}  # of each term since the last record
        self.summed = 0

    @abstractmethod
    def losses(self, batch: Samples) -> dict[str, Tensor]:
        """Return the scalars of a step by the name of their term; `loss` is minimised."""

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
            read: gives the batches of an epoch, from 0, after its first so many.
            short: what UserError says where they are too few.
            progress: is told the step, the number of steps, and the losses in words.
            output: where checkpoints are, to go on from and to write; without it there are none.
            after_epoch: is called in the first process with the epoch, before its checkpoint.

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
        """Take one step; return the mean terms since the last record, where they are looked at."""
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
        """Raise UserError where a loss since the last check, or a weight, is not finite."""
        weights = self.network.state_dict().values()
        if isfinite(loss) and all(bool(value.isfinite().all()) for value in weights):
            return
        mend = f"lower {self.section}.learning_rate"
        if self.saved:
            mend += f"; the same settings would go on from the checkpoint of step {self.saved}"
        raise UserError(f"the loss of {self.name} is no longer finite at step {self.step}: {mend}.")

    def _save(self, output: TrainingOutput | None) -> None:
        """Save the state, from which an interrupted training goes on; the first process does."""
        if output is None or self.part[0] != 0:
            return
        self._check(float(sum(self.sums.values())))
        state = {name: getattr(self, name).state_dict() for name in STATEFUL}
        state |= {name: getattr(self, name) for name in COUNTED}
        save_checkpoint(output, state)
        self.saved = self.step

    def _resume(self, output: TrainingOutput) -> None:
        """Go on from the checkpoint of this very training, if there is one."""
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
