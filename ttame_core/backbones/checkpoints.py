"""Files of weights: reading them without running pickled code, checking and hashing them."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ttame_core import spec
from ttame_core.errors import UserError

COUNT = "num_batches_tracked"
RUNNING = re.compile(r"running_(mean|var)$")  # of batch norms
# Names under which a record of a training holds a state dict.
NESTS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "ema")


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """Read a state dict from a file of safetensors or of plain tensors, whatever its suffix.

    Where the file holds more than a state dict, as checkpoints of trainings do, the state dict is
    the entry with the first of the usual names (NESTS), such as `state_dict`; a line of the log
    says so where there are several.

    Raises:
        UserError: the file does not exist, or holds other things than tensors.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint at {path}")
    try:
        with open(path, "rb") as stream:
            is_safetensors = stream.read(9)[8:] == b"{"  # after the length of its header
            stream.seek(0)
            state: Any = (
                load_file(path, device="cpu")
                if is_safetensors
                else torch.load(stream, map_location="cpu", weights_only=True)
            )
    except Exception as error:  # torch.load can raise anything for a broken file
        if "weights_only" in str(error):  # torch.load refuses other things than tensors
            raise UserError(
                f"the checkpoint {path} is not a plain file of weights and is not loaded: save it "
                "as safetensors or as a state dict"
            ) from error
        raise UserError(f"cannot read the checkpoint {path}: {error}") from error
    while inner := [name for name in NESTS if _is_mapping(state, name)]:
        if len(inner) > 1:
            logging.getLogger(__name__).warning(
                "the checkpoint %s holds %s: %s is taken", path, " and ".join(inner), inner[0]
            )
        state = state[inner[0]]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"the checkpoint {path} holds no state dict: save `model.state_dict()`")
    return state


def _is_mapping(state: Any, name: str) -> bool:
    return isinstance(state, Mapping) and isinstance(state.get(name), Mapping)


def load_weights(
    model: nn.Module, state: dict[str, Tensor], settings: spec.Backbone, checkpoint: str
) -> None:
    """Load a state dict into a model.

    A prefix such as `model.` or `module.` is taken off where all names in the state dict have it,
    and the model's do not. Batch norms' counts of batches, which predictions do not need, may be
    missing.

    Raises:
        UserError: names or shapes differ, or numbers are not finite; the message has the first.
    """
    own = model.state_dict()
    state = _without_prefix(state, own, checkpoint)
    counts = {k: v for k, v in own.items() if k.endswith(COUNT)}
    state = counts | state
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
    checked = [*(k for k, _ in model.named_parameters()), *filter(RUNNING.search, own)]
    broken = [k for k in checked if k in state and not _is_finite(state[k])]
    if broken:
        raise UserError(
            f"the checkpoint {checkpoint} of backbone {settings.name} holds numbers that are not "
            f"finite, in {broken[0]}: give another checkpoint"
        )
    model.load_state_dict(state)


def _without_prefix(
    state: dict[str, Tensor], own: dict[str, Tensor], checkpoint: str
) -> dict[str, Tensor]:
    """Take what wrappers add, such as `module.`, off the names of a state dict.

    Args:
        state: the state dict.
        own: the model's own state dict, whose names show what was added.
        checkpoint: the file, for errors.

    Raises:
        UserError: the state dict holds several networks of these names.
    """
    state = {name.replace("_orig_mod.", ""): values for name, values in state.items()}
    state.pop("n_averaged", None)  # the count of an averaged model
    needed = {name for name in own if not name.endswith(COUNT)}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, values in state.items():
        first, _, inner = name.partition(".")
        parts.setdefault(first, {})[inner] = values
    # A training's own weights, of a loss or a metric, may stand beside the network.
    whole = sorted(first for first, part in parts.items() if needed <= part.keys())
    if len(whole) > 1:
        raise UserError(
            f"the checkpoint {checkpoint} holds several such networks ({', '.join(whole)}): save "
            "the one that is meant alone"
        )
    if whole and not needed <= state.keys():
        return parts[whole[0]]
    heads = {name.partition(".")[0] for name in own}
    while len(outer := {name.partition(".")[0] for name in state}) == 1 and not outer & heads:
        shorter = {name.partition(".")[2]: values for name, values in state.items()}
        if "" in shorter:
            break
        state = shorter
    return state


def _is_finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def file_hash(path: str) -> str:
    """Return the SHA-256 of a file, which is cached until the file's size or time changes.

    Raises:
        UserError: there is no such file, or it is a pipe or a device, which may have no end.
    """
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    if not Path(path).is_file():
        raise UserError(f"cannot read the checkpoint {path}: it is no plain file")
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_hash(path: str, size: int, mtime: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
