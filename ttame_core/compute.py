"""Where and how networks run: device, number format, memory layout, compilation."""

from __future__ import annotations

import torch

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.errors import UserError


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
    layout = torch.channels_last if compute.channels_last else torch.preserve_format
    backbone.to(device, memory_format=layout)
    backbone.precision = precision_of(compute, device)
    if compute.compile:
        backbone.compile_passes()
    return backbone
