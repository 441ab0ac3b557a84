"""The ways in which networks run: device, number format, memory layout, compilation."""

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
    """Call a function again with half the batch size whenever the device's memory is too small.

    The function's result must not depend on the batch size.

    Args:
        compute: section `compute` of a spec, with the batch size to begin with.
        run: the function, called with such a section; it begins anew each time.
        warn: called with a sentence each time the batch size is halved.

    Raises:
        UserError: one image does not fit into the memory.
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
        torch.cuda.empty_cache()  # outside `except`, where the failed run's tensors are freed
        compute = compute.model_copy(update={"batch_size": size // 2})


@contextmanager
def in_whole_batches(what: str, option: str) -> Iterator[None]:
    """Turn the error for a training's batch that does not fit into memory into a sentence.

    The batch is not halved: batch norm and the number of steps depend on its size, so the result
    would depend on the memory that happens to be free.

    Args:
        what: words for what is trained.
        option: the spec's key for the batch size.

    Raises:
        UserError: the batch does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"training {what} does not fit into the device's memory ({error}): lower {option}, and "
            "the training begins again; or run it on a device with more memory, and it goes on "
            "from its checkpoint"
        ) from error


def device_of(compute: spec.Compute) -> torch.device:
    """Return the device that `compute.device` names; `auto` is CUDA where there is a GPU.

    Raises:
        UserError: there is no GPU, and the spec names one.
    """
    if compute.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if compute.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"compute.device is {compute.device}, but PyTorch finds no CUDA device here: say auto "
            "or cpu"
        )
    return torch.device(compute.device)


def precision_of(compute: spec.Compute, device: torch.device) -> torch.dtype:
    """Return the number format of training and maps.

    `auto` is bfloat16 where the device has hardware for products of bfloat16 matrices, else
    float32.
    """
    if compute.precision != "auto":
        return getattr(torch, compute.precision)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def place(backbone: Backbone, compute: spec.Compute) -> Backbone:
    """Move a backbone to its device, with the number format and memory layout of the spec."""
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
    """Let the C library keep the memory that this process frees, for its next allocations.

    Otherwise the memory of each batch's feature maps goes back to the system, and that of the next
    batch comes page by page, which takes a fifth of a forward pass on a CPU (docs/cost.md). This
    has an effect only with glibc.
    """
    if mallopt := _of_c_library("mallopt"):
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Give the memory that this process has freed, and kept, back to the system.

    What one unit of work has freed lies in pieces that do not fit the next one's batches, so that
    the process would grow from unit to unit. This has an effect only with glibc.
    """
    if trim := _of_c_library("malloc_trim"):
        trim(0)


def _of_c_library(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
