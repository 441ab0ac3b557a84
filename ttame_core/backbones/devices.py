"""Where and how networks run: device, number format, memory layout, compilation."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.errors import UserError

T = TypeVar("T")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def in_smaller_batches(
    compute: spec.Compute,
    run: Callable[[spec.Compute], T],
    warn: Callable[[str], object] = lambda words: None,
) -> T:
    """`run` from its start with half the batch size, and half of that, until the memory suffices.

    For what gives the same in batches of any size. Raises UserError where one image is too many.
    """
    while True:
        try:
            return run(compute)
        except torch.OutOfMemoryError as error:
            size = compute.batch_size
            if size == 1:
                raise UserError(
                    f"one image at a time does not fit into the memory of {compute.device} "
                    f"({error}): use a larger device, or a smaller backbone or input size"
                ) from error
            warn(f"out of memory in batches of {size}: going on in batches of {size // 2}")
        torch.cuda.empty_cache()  # here, where the failed run's tensors are gone
        compute = compute.model_copy(update={"batch_size": size // 2})


@contextmanager
def in_whole_batches(what: str, option: str) -> Iterator[None]:
    """Raise UserError where a training's batch does not fit into memory.

    It is not halved: batch norm and the number of steps depend on it, so that the outcome would
    depend on what else the device held.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"training {what} does not fit into the device's memory ({error}): lower {option}, "
            "which makes it another training; with more memory this one goes on from its checkpoint"
        ) from error


def device_of(compute: spec.Compute) -> torch.device:
    """The device that `compute.device` names; `auto` is CUDA where there is one."""
    if compute.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if compute.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"compute.device is {compute.device}, but PyTorch finds no CUDA device here"
        )
    return torch.device(compute.device)


def precision_of(compute: spec.Compute, device: torch.device) -> torch.dtype:
    """Of training and maps. `auto` is bfloat16 where the device multiplies matrices in it."""
    if compute.precision != "auto":
        return getattr(torch, compute.precision)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def place(backbone: Backbone, compute: spec.Compute) -> Backbone:
    """The backbone, made ready to run as the spec says."""
    device = device_of(compute)
    if device.type == "cpu":
        keep_freed_memory()
    layout = torch.channels_last if compute.channels_last else torch.preserve_format
    backbone.to(device).to(memory_format=layout)
    backbone.precision = precision_of(compute, device)
    if compute.compile:
        backbone.compile_passes()
    return backbone


def keep_freed_memory() -> None:
    """What this process frees, its C library keeps for it, up to the most that was in use.

    Else the feature maps of each batch are given back to the system, and those of the next come
    page by page: a fifth of the time of a forward pass on a CPU (docs/cost.md). glibc's alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, -1)
