"""Conversion of published T-TAME checkpoints to heads of ttame.

The checkpoints are files of PyTorch Lightning. Their state dict holds `…attn_mech.convs.{i}.*`,
`…attn_mech.bns.{i}.*` and `…attn_mech.fuser.*`, beside the backbone. They also hold pickled objects
that are no tensors, which are not run.
"""

from __future__ import annotations

import pickle
import re
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ttame_core import spec
from ttame_core.backbones import load_backbone
from ttame_core.errors import UserError, writing
from ttame_core.heads.attention import AttentionHead

# The taps of T-TAME, section IV-A. The first two sets of names stand for the same layers in
# torchvision and in timm.
TAPS = (
    ("features.16", "features.23", "features.30"),  # VGG-16: the last three pooling stages
    ("layer2", "layer3", "layer4"),  # ResNet-50
    tuple(f"encoder.layers.encoder_layer_{i}" for i in (9, 10, 11)),  # ViT-B/16 of torchvision
    tuple(f"blocks.{i}" for i in (9, 10, 11)),  # ViT-B/16 of timm
)
ARCHITECTURES = (r"vgg16", r"resnet50", r"vit_b_16", r"vit_base_patch16_224")
TENSORS = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v2"),
}


class _Nothing(dict[Any, Any]):
    """A stand-in for pickled objects that are no tensors, which ignores all arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    extend = add = append


class _TensorsOnly(pickle.Unpickler):
    """An unpickler that calls only the functions that rebuild tensors."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if (module, name) in TENSORS else _Nothing


def read_published(path: str) -> dict[str, Tensor]:
    """Return the attention mechanism in a published checkpoint, as a state dict of AttentionHead.

    Raises:
        UserError: the file cannot be read, is TorchScript, or holds no such mechanism or several.
    """
    try:
        with open(path, "rb") as stream:
            if "constants.pkl" in torch._C.PyTorchFileReader(stream).get_all_records():
                raise UserError(  # torch.load would hand it to torch.jit.load, which runs it
                    f"the checkpoint {path} is a program of TorchScript, which runs when it is "
                    "loaded, and is not read: save its state dict with torch.save"
                )
            stream.seek(0)
            loaded = torch.load(
                stream,
                map_location="cpu",
                weights_only=False,
                pickle_module=SimpleNamespace(Unpickler=_TensorsOnly, __name__=__name__),
            )
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint at {path}") from error
    except Exception as error:  # a broken file can lead to any error
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot read the checkpoint {path}: {reason}; it must be a file of torch.save in the "
            "zip format (PyTorch 1.6 or newer)"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.*?)attn_mech\.((?:convs|bns)\.\d+\.\w+|fuser\.\w+)", str(key))
        if match and isinstance(value, Tensor):
            found.setdefault(match[1], {})[match[2]] = value.detach().contiguous()
    if len(found) != 1:
        raise UserError(
            f"the checkpoint {path} holds {len(found) or 'no'} attention mechanisms (keys "
            "…attn_mech.convs.0.weight and so on): give a checkpoint with exactly one"
        )
    return next(iter(found.values()))


def published_taps(model: str) -> list[int | str] | None:
    """Return the taps of the published head for a model; None where there is no such head."""
    name = model.removeprefix("torchvision/").split(".")[0]
    taps = dict(zip(ARCHITECTURES, TAPS, strict=True)).get(name)
    return list(taps) if taps else None


def import_head(path: str, settings: spec.Backbone, output: str) -> spec.Backbone:
    """Write the head in a published checkpoint as a safetensors file.

    The head's shape depends on the backbone's taps, and not on its weights, which are not loaded.

    Args:
        path: the checkpoint.
        settings: section of a spec for the backbone that the head belongs to.
        output: safetensors file to write.

    Returns:
        The section of the backbone, with the taps that the head reads.

    Raises:
        UserError: the head does not fit the backbone.
    """
    state = read_published(path)
    settings = settings.model_copy(
        update={
            "pretrained": False,
            "checkpoint": None,
            "taps": settings.taps or published_taps(settings.model),
        }
    )
    backbone = load_backbone(settings)
    head = AttentionHead(
        [tap.channels for tap in backbone.taps], backbone.num_classes, backbone.map_size
    )
    own = head.state_dict()
    state = {k: v for k, v in own.items() if k.endswith("num_batches_tracked")} | state
    wrong = sorted(own.keys() ^ state.keys()) or sorted(
        key for key in own if own[key].shape != state[key].shape
    )
    if wrong:
        taps = ", ".join(f"{tap.name} ({tap.channels} channels)" for tap in backbone.taps)
        raise UserError(
            f"the head in {path} does not fit {settings.model} with the taps {taps} and "
            f"{backbone.num_classes} classes: {wrong[0]} is {_shape(state, wrong[0])} in the file "
            f"and {_shape(own, wrong[0])} here; name another backbone or --tap"
        )
    content = save({key: state[key].to(own[key].dtype) for key in own})
    with writing(output) as file:
        file.write_bytes(content)
    return settings.model_copy(update={"head": output})


def _shape(state: dict[str, Tensor], key: str) -> str:
    return str(tuple(state[key].shape)) if key in state else "missing"
