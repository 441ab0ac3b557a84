"""The loop that trainings share: what its history says, and where it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.training.checkpoint import is_whole_checkpoint, load_checkpoint
from ttame_core.training.loop import Loop
from ttame_core.training.orders import TrainingOutput

EPOCHS, BATCHES = 2, 3


class _Line(Loop[Tensor]):
    """Learn nothing: the loss is what the batch says, and every weight's gradient is zero."""

    section = "line"

    def __init__(self) -> None:
        network = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        schedule = OneCycleLR(optimizer, 0.1, total_steps=EPOCHS * BATCHES)
        super().__init__("the line", network, schedule, BATCHES)

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        nothing = 0 * sum(weight.sum() for weight in self.network.parameters())
        return {"loss": batch + nothing, "half": batch / 2}


def _read(epoch: int, skip: int) -> Iterator[Tensor]:
    for step in range(skip, BATCHES):
        yield torch.tensor(float(epoch * BATCHES + step))


def _rows(run: _Line) -> list[tuple[int, int, str, float]]:
    return [(row["epoch"], row["step"], row["term"], row["value"]) for row in run.history]


def test_the_history_has_the_means_since_the_last_record() -> None:
    run = _Line()
    run.record_steps = 2
    told: list[tuple[int, int, str]] = []
    run.train(_read, "short", lambda *progress: told.append(progress))
    expected = [(0, 2, 0.5), (1, 4, 2.5), (1, 6, 4.5)]
    assert _rows(run) == [
        (epoch, step, term, mean * share)
        for epoch, step, mean in expected
        for term, share in (("loss", 1), ("half", 0.5))
    ]
    assert [(step, total) for step, total, _ in told] == [(step, 6) for step in range(1, 7)]
    assert told[-1][2] == "epoch 2/2 loss 4.500 half 2.250"


@pytest.mark.parametrize("died", [1, 2, 3, 4, 5])
def test_it_goes_on_with_the_batch_after_the_checkpoint(died: int, tmp_path: Path) -> None:
    output = TrainingOutput(Lake(tmp_path), "line", "x")
    whole = _Line()
    whole.train(_read, "short")

    def breaking(epoch: int, skip: int) -> Iterator[Tensor]:
        for batch in _read(epoch, skip):
            if batch == died:
                raise KeyboardInterrupt
            yield batch

    for read in (breaking, _read):
        run = _Line()
        run.checkpoint_steps = 2
        if read is breaking:
            with pytest.raises(KeyboardInterrupt):
                run.train(read, "short", output=output)
            assert run.saved == max(step for step in (0, 2, 3, 4) if step <= died)
        else:
            run.train(read, "short", output=output)
    assert _rows(run) == _rows(whole)


def test_a_loss_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    output = TrainingOutput(Lake(tmp_path), "line", "x")

    def read(epoch: int, skip: int) -> Iterator[Tensor]:
        for batch in _read(epoch, skip):
            yield batch / (batch != 4)  # infinite

    with pytest.raises(UserError, match=r"the line is no longer finite at step 5: lower line\."):
        _Line().train(read, "short", output=output)
    state = load_checkpoint(output)
    assert state is not None
    assert state["step"] == 3


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    output = TrainingOutput(lake, "line", "x")
    run = _Line()
    run.train(_read, "short", output=output)
    path = tmp_path / "line" / "checkpoint.pt"
    whole = path.read_bytes()
    for place in (0, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        assert load_checkpoint(output) is None
        assert not is_whole_checkpoint(lake, "line/checkpoint.pt")
    path.write_bytes(whole)
    assert is_whole_checkpoint(lake, "line/checkpoint.pt")
    assert load_checkpoint(output) is not None


def test_too_few_batches_are_told() -> None:
    with pytest.raises(UserError, match="the shards are short"):
        _Line().train(lambda epoch, skip: [torch.zeros(())], "the shards are short")
