"""Checkpoints: the state of a training, from which an interrupted one goes on to the same end.

PyTorch reads a file with flipped bits as other numbers, so the file ends with its own SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from typing import Any

import torch

from ttame_core.lake import Lake, fingerprint
from ttame_core.training.orders import TrainingOutput

FORMAT = 4  # format of checkpoints; those of another format are ignored
DIGEST = hashlib.sha256().digest_size  # bytes of the hash at the end of the file


def checkpoint_file(folder: str) -> str:
    """Return the path of a training's checkpoint, a file that is removed when the training ends."""
    return f"{folder}/checkpoint.pt"


def _identity(made_from: Any) -> str:
    return fingerprint([FORMAT, made_from])


def save_checkpoint(output: TrainingOutput, state: dict[str, Any]) -> None:
    """Write the state of a training, with the fingerprint of what it is made from."""
    path = checkpoint_file(output.folder)
    with output.lake.create(path) as temporary, temporary.open("w+b") as stream:
        torch.save({"fingerprint": _identity(output.made_from), **state}, stream)
        stream.seek(0)
        stream.write(hashlib.file_digest(stream, "sha256").digest())


def load_checkpoint(output: TrainingOutput) -> dict[str, Any] | None:
    """Load the saved state of this very training, on the CPU.

    Returns:
        The state; None where there is none, where it is not as it was written, or where another
        training left it.
    """
    path = checkpoint_file(output.folder)
    if not output.lake.exists(path):
        return None
    content = output.lake.read_bytes(path)
    if not _is_whole(content):
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state if state["fingerprint"] == _identity(output.made_from) else None
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError):
        return None


def is_whole_checkpoint(lake: Lake, path: str) -> bool:
    """Say whether a checkpoint is as it was written, by the hash at its end."""
    return _is_whole(lake.read_bytes(path))


def _is_whole(content: bytes) -> bool:
    return hashlib.sha256(memoryview(content)[:-DIGEST]).digest() == content[-DIGEST:]


def remove_checkpoint(lake: Lake, folder: str) -> None:
    """Remove the checkpoint of a training that has ended."""
    lake.remove(checkpoint_file(folder))
