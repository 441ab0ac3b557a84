"""Published checkpoints become heads of ours, and nothing that is pickled in them runs."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ttame_core import spec
from ttame_core.backbones import load_backbone
from ttame_core.errors import UserError
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.files import adopt_head, load_head
from ttame_core.heads.published import import_head, read_published
from ttame_core.lake import Lake


class _Attention(nn.Module):
    """The attention mechanism as it was published: all maps are upsampled, all classes computed."""

    def __init__(self, channels: list[int], classes: int = 1000) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, c, 1) for c in channels)
        self.bns = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.fuser = nn.Conv2d(sum(channels), classes, 1)
        for bn in self.bns:
            nn.init.uniform_(bn.running_mean, -0.2, 0.2)
            nn.init.uniform_(bn.running_var, 0.5, 1.5)
            nn.init.uniform_(bn.weight, 0.5, 1.5)

    def forward(self, features: list[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        branches = [
            F.interpolate(F.relu(bn(conv(x)) + x), size, mode="bilinear", align_corners=False)
            for conv, bn, x in zip(self.convs, self.bns, features, strict=True)
        ]
        return self.fuser(torch.cat(branches, dim=1))


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.mark,)


def _lightning(path: Path, head: nn.Module, mark: Path) -> str:
    """A file as PyTorch Lightning writes it, with objects of modules that are not installed."""
    name = "lightning_utilities_parsing"
    sys.modules[name] = module = ModuleType(name)
    module.AttributeDict = type("AttributeDict", (dict,), {"__module__": name})  # type: ignore[attr-defined]
    try:
        state = {f"generic.attn_mech.{k}": v for k, v in head.state_dict().items()}
        backbone = {"generic.body.conv1.weight": nn.Parameter(torch.zeros(2))}
        torch.save(
            {
                "epoch": 7,
                "pytorch-lightning_version": "1.9.0",
                "state_dict": OrderedDict({**backbone, **state}),
                "hyper_parameters": module.AttributeDict(cfg=argparse.Namespace(a={1})),
                "callbacks": {"bomb": _Bomb(mark), "counts": defaultdict(list, a=[1])},
            },
            path,
        )
    finally:
        del sys.modules[name]
    return str(path)


@pytest.mark.parametrize(
    ("model", "channels", "arguments"),
    [
        ("torchvision/vgg16", [256, 512, 512], {}),
        ("vgg16", [256, 512, 512], {"mlp_ratio": 0.05}),
        ("torchvision/resnet50", [512, 1024, 2048], {}),
        ("resnet50", [512, 1024, 2048], {}),
        ("torchvision/vit_b_16", [768] * 3, {"image_size": 64}),
        ("vit_base_patch16_224", [768] * 3, {"img_size": 64}),
    ],
)
def test_a_published_head_gives_the_textbooks_maps(
    model: str, channels: list[int], arguments: dict[str, float], tmp_path: Path
) -> None:
    """On pictures of 64 pixels, which take a twelfth of the time."""
    torch.manual_seed(0)
    textbook = _Attention(channels).eval()
    path = _lightning(tmp_path / "epoch=7.ckpt", textbook, tmp_path / "ran")
    view = {"input_size": [64, 64]}
    settings = spec.Backbone(model=model, pretrained=True, args=arguments, preprocessing=view)
    settings = import_head(path, settings, str(tmp_path / "head.safetensors"))
    assert not (tmp_path / "ran").exists()

    backbone = load_backbone(settings)
    assert settings.head is not None
    adopt_head(Lake(tmp_path), settings.head, TTame(backbone), "heads", {"of": "test"})
    head = load_head(Lake(tmp_path), "heads", TTame(backbone)).fold()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        _, features = backbone.features(backbone.normalise(images))
        expected = textbook(features)[[0, 1], [3, 998]]
        found = head(features, torch.tensor([3, 998]))[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_heads_that_do_not_fit(tmp_path: Path) -> None:
    path = _lightning(tmp_path / "a.ckpt", _Attention([8, 16, 24]), tmp_path / "ran")
    output = str(tmp_path / "head.safetensors")
    settings = spec.Backbone(model="resnet10t", pretrained=True, args={"stem_width": 8})
    with pytest.raises(UserError, match=r"does not fit resnet10t.*layer4 \(512 channels\)"):
        import_head(path, settings, output)
    assert not Path(output).exists()
    thin = {"channels": [8, 8, 16, 24], "stem_width": 8}
    import_head(path, spec.Backbone(model="resnet10t", pretrained=True, args=thin), output)
    assert load_file(output)["fuser.weight"].shape == (1000, 48, 1, 1)


def test_files_that_hold_no_head(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        read_published(str(tmp_path / "none.ckpt"))
    (tmp_path / "text.ckpt").write_text("text")
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*text\.ckpt"):
        read_published(str(tmp_path / "text.ckpt"))
    with (tmp_path / "pickle.ckpt").open("wb") as stream:
        pickle.dump({"state_dict": _Bomb(tmp_path / "ran")}, stream)
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        read_published(str(tmp_path / "pickle.ckpt"))
    torch.save({"state_dict": {"model.weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="holds no attention mechanisms"):
        read_published(str(tmp_path / "other.ckpt"))
    assert not (tmp_path / "ran").exists()


class _Script(nn.Module):
    """As TorchScript, it makes a file when it is loaded."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark
        self.mapped = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.mark, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.mark, self.training = state
        self.mapped = torch.from_file(state[0], True, 4)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_not_run(tmp_path: Path) -> None:
    torch.jit.script(_Script(str(tmp_path / "ran"))).save(tmp_path / "script.ckpt")
    with pytest.raises(UserError, match=r"script\.ckpt is a program of TorchScript"):
        read_published(str(tmp_path / "script.ckpt"))
    assert not (tmp_path / "ran").exists()
    torch.jit.load(tmp_path / "script.ckpt")  # what the refusal is for
    assert (tmp_path / "ran").exists()
