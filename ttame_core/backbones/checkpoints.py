"""Files of weights: reading them without running pickled code, checking and hashing them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from timm.models import load_state_dict
from torch import Tensor, nn

from ttame_core import spec
from ttame_core.errors import UserError


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """Read a state dict from a file of safetensors or of plain tensors.

    Raises:
        UserError: there is no such file, or it holds other things than tensors.
    """
    try:
        state = load_state_dict(path, device="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint at {path}") from error
    except Exception as error:  # torch.load can raise anything for a broken file
        if "weights_only" in str(error):  # torch.load refuses other things than tensors
            raise UserError(
                f"the checkpoint {path} is not a plain file of weights and is not loaded: save it "
                "as safetensors or as a state dict"
            ) from error
        raise UserError(f"cannot read the checkpoint {path}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"the checkpoint {path} holds no state dict: save `model.state_dict()`")
    return state


def load_weights(
    model: nn.Module, state: dict[str, Tensor], settings: spec.Backbone, checkpoint: str
) -> None:
    """Load a state dict into a model.

    Raises:
        UserError: names or shapes differ, or numbers are not finite; the message has the first.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    shapes = [k for k in sorted(own.keys() & state.keys()) if own[k].shape != state[k].shape]
    if missing or unknown or shapes:
        examples = [f"{k} is missing" for k in missing[:1]]
        examples += [f"{k} is not in the model" for k in unknown[:1]]
        examples += [
            f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in shapes[:1]
        ]
        raise UserError(
            f"the checkpoint {checkpoint} is of another architecture than {settings.model} "
            f"(backbone {settings.name}): {'; '.join(examples)} "
            f"({len(missing) + len(unknown) + len(shapes)} differences); check `model`, `args` "
            "and `num_classes`"
        )
    broken = [k for k, _ in model.named_parameters() if k in state and not _is_finite(state[k])]
    if broken:
        raise UserError(
            f"the checkpoint {checkpoint} of backbone {settings.name} holds numbers that are not "
            f"finite, in {broken[0]}: give another checkpoint"
        )
    model.load_state_dict(state)


def _is_finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def file_hash(path: str) -> str:
    """Return the SHA-256 of a file, which is cached until the file's size or time changes."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_hash(path: str, size: int, mtime: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
