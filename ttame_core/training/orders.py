"""The input and the output of a training, the same for heads and for classifiers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ttame_core import spec
from ttame_core.backbones import Preprocessing
from ttame_core.data.loader import Batch, load_batches
from ttame_core.errors import UserError
from ttame_core.lake import Lake


@dataclass(frozen=True)
class TrainingShards:
    """The shards of a data set that a training reads.

    Attributes:
        lake: the workspace.
        dataset: name of the data set.
        train: names and sample counts of the shards to learn from.
        val: names and sample counts of the shards to validate on.
        compute: section `compute` of a spec, with the number of threads that decode images, and of
            images in a forward pass of a validation.
    """

    lake: Lake
    dataset: str
    train: Sequence[tuple[str, int]]
    val: Sequence[tuple[str, int]]
    compute: spec.Compute

    def training_batches(
        self,
        view: Preprocessing,
        size: int,
        order: tuple[int, int],
        skip: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """Yield the whole batches of an epoch.

        Args:
            view: preprocessing of the classifier.
            size: number of samples in a batch.
            order: seed and epoch, which the order of the samples follows from.
            skip: number of batches at the start that are left out.
            part: (i, n) for the i-th of n equal shares of every batch, i from 0.
        """
        return load_batches(
            self.lake,
            self.dataset,
            [name for name, _ in self.train],
            view,
            size,
            self.compute.workers,
            shuffle=order,
            skip=skip,
            drop_last=True,
            part=part,
        )

    def validation_batches(self, view: Preprocessing, size: int) -> Iterator[Batch]:
        """Yield batches of `size` samples to validate on, in stored order."""
        return self._stored(self.val, view, size)

    def stored_batches(self, view: Preprocessing, size: int) -> Iterator[Batch]:
        """Yield all samples to learn from in batches of `size` and a rest, in stored order."""
        return self._stored(self.train, view, size)

    def _stored(
        self, shards: Sequence[tuple[str, int]], view: Preprocessing, size: int
    ) -> Iterator[Batch]:
        names = [name for name, _ in shards]
        return load_batches(self.lake, self.dataset, names, view, size, self.compute.workers)

    @property
    def images(self) -> int:
        """The number of samples to learn from."""
        return sum(count for _, count in self.train)

    @property
    def too_few(self) -> str:
        """The message of the error for an epoch that ends before its last batch."""
        return (
            f"the training shards of data set {self.dataset} hold fewer samples than its index "
            "says: run `ttame shard` again"
        )

    def check_one_batch(self, size: int, option: str) -> None:
        """Check that the samples fill at least one batch.

        Args:
            size: number of samples in a batch.
            option: name of the setting to lower, for the message.

        Raises:
            UserError: there are fewer training samples than a batch has.
        """
        if self.images < size:
            raise UserError(
                f"data set {self.dataset} has {self.images} training samples, less than one batch "
                f"of {size}: lower {option} or give it more"
            )


def first_images(count: int, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the first images of batches (B, 3, H, W), `count` in all, and read no batch more."""
    for batch in batches if count > 0 else ():
        yield batch[:count]
        count -= len(batch)
        if count <= 0:
            return


@dataclass(frozen=True)
class TrainingOutput:
    """The folder of a lake that a training writes to, and what the result is made from."""

    lake: Lake
    folder: str
    made_from: Any
