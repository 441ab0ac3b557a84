"""A network as it is, without what was put around it to make it faster, smaller or parallel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Where the classes of wrappers and of quantised layers are defined.
WRAPPERS = {
    "torch._dynamo.eval_frame": "_orig_mod",
    "torch.nn.parallel.data_parallel": "module",
    "torch.nn.parallel.distributed": "module",
    "torch.optim.swa_utils": "module",
}
QUANTISED = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic", "bitsandbytes", "torchao")


class Script(nn.Module):
    """A module around a TorchScript script, because scripts take no hooks."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the script returns."""
        return self.script(inputs)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside torch.compile, DataParallel and averaged models, at any depth.

    Compilation in place (`module.compile()`) is undone. A script becomes a `Script` module.

    Args:
        model: any module; its submodules are replaced in place.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return Script(model)
    if attribute := WRAPPERS.get(type(model).__module__):
        return unwrapped(getattr(model, attribute))
    model._compiled_call_impl = None
    for name, child in model.named_children():
        if not isinstance(child, torch.jit.ScriptModule) and unwrapped(child) is not child:
            setattr(model, name, unwrapped(child))
    return model


def is_quantised(model: nn.Module) -> bool:
    """Say whether layers of a network compute in whole numbers; they give no gradients."""
    kinds = {type(thing).__module__ for thing in (*model.modules(), *model.parameters())}
    return any(kind.startswith(QUANTISED) for kind in kinds) or any(
        not weight.is_floating_point() and not weight.is_complex() for weight in model.parameters()
    )
