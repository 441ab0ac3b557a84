"""Checkpoints: the state of a training, from which an interrupted one goes on to the same end."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch

from ttame_core.lake import Lake, fingerprint
from ttame_core.training.orders import TrainingOutput

FORMAT = 3  # format of checkpoints; those of another format are ignored


def checkpoint_file(folder: str) -> str:
    """Return the path of a training's checkpoint, a file that is removed when the training ends."""
    return f"{folder}/checkpoint.pt"


def _identity(made_from: Any) -> str:
    return fingerprint([FORMAT, made_from])


def save_checkpoint(output: TrainingOutput, state: dict[str, Any]) -> None:
    """Write the state of a training, with the fingerprint of what it is made from."""
    path = checkpoint_file(output.folder)
    with output.lake.create(path) as temporary, temporary.open("wb") as stream:
        torch.save({"fingerprint": _identity(output.made_from), **state}, stream)


def load_checkpoint(output: TrainingOutput) -> dict[str, Any] | None:
    """Load the saved state of this very training, on the CPU.

    Returns:
        The state; None where there is none, where it is broken, or where another training left it.
    """
    path = checkpoint_file(output.folder)
    if not output.lake.exists(path):
        return None
    try:
        with output.lake.open(path) as stream:
            content = io.BytesIO(stream.read())
        state = torch.load(content, map_location="cpu", weights_only=True)
        return state if state["fingerprint"] == _identity(output.made_from) else None
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError):
        return None


def remove_checkpoint(lake: Lake, folder: str) -> None:
    """Remove the checkpoint of a training that has ended."""
    lake.remove(checkpoint_file(folder))
