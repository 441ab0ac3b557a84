"""The state of a training under way, from which an interrupted one goes on to the same end."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch

from ttame_core.lake import Lake, fingerprint
from ttame_core.training.orders import TrainingOutput

FORMAT = 3  # of what is saved: an earlier one is as none


def checkpoint_file(folder: str) -> str:
    """In the folder of what is trained; it goes when the training has ended."""
    return f"{folder}/checkpoint.pt"


def _identity(made_from: Any) -> str:
    return fingerprint([FORMAT, made_from])


def save_checkpoint(output: TrainingOutput, state: dict[str, Any]) -> None:
    """Write the state of a training, marked with what the training is made from."""
    path = checkpoint_file(output.folder)
    with output.lake.create(path) as temporary, temporary.open("wb") as stream:
        torch.save({"fingerprint": _identity(output.made_from), **state}, stream)


def load_checkpoint(output: TrainingOutput) -> dict[str, Any] | None:
    """Load, on the CPU, the state that was saved of this very training.

    Returns:
        None where there is none, or where it is broken or of another training.
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
    """Remove the state of a training that has ended."""
    lake.remove(checkpoint_file(folder))
