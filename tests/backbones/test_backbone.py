"""Loading classifiers, and one clear sentence where that fails."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ttame_core import spec
from ttame_core.backbones import create_model, file_hash, load_backbone
from ttame_core.errors import UserError

ARGS = {"channels": (8, 16, 24, 32), "stem_width": 8}


def _settings(**options: object) -> spec.Backbone:
    return spec.Backbone(**({"model": "resnet10t", "name": "net", "args": ARGS} | options))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    state = timm.create_model("resnet10t", num_classes=7, **ARGS).state_dict()
    save_file(state, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_checkpoint_gives_its_weights_and_classes(checkpoint: Path, suffix: str) -> None:
    from safetensors.torch import load_file

    state = load_file(checkpoint)
    path = checkpoint.with_suffix(f".{suffix}")
    if suffix == "pth":
        torch.save({"state_dict": state}, path)
    settings = _settings(checkpoint=str(path))
    assert load_backbone(settings).num_classes == 7
    loaded = create_model(settings, settings.checkpoint, None).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_a_checkpoint_of_another_architecture(checkpoint: Path) -> None:
    other = {"args": ARGS | {"stem_width": 16}}
    with pytest.raises(UserError, match="another architecture than resnet10t"):
        load_backbone(_settings(checkpoint=str(checkpoint), **other))
    with pytest.raises(UserError, match=r"another architecture.*fc"):
        load_backbone(_settings(checkpoint=str(checkpoint), num_classes=3))


def test_files_that_are_no_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        load_backbone(_settings(checkpoint=str(tmp_path / "none.safetensors")))
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        load_backbone(_settings(checkpoint=str(tmp_path / "cut.safetensors")))
    (tmp_path / "text.pth").write_text("text")
    with pytest.raises(UserError, match=r"text\.pth"):
        load_backbone(_settings(checkpoint=str(tmp_path / "text.pth")))


class _Bomb:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path(self.mark),))

    mark = ""


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    bomb = _Bomb()
    bomb.mark = str(tmp_path / "ran")
    with (tmp_path / "bomb.pth").open("wb") as stream:
        pickle.dump({"state_dict": bomb}, stream)
    torch.save({"state_dict": bomb}, tmp_path / "bomb2.pth")
    for name in ("bomb.pth", "bomb2.pth"):
        with pytest.raises(UserError, match="not a plain file of weights"):
            load_backbone(_settings(checkpoint=str(tmp_path / name)))
    assert not (tmp_path / "ran").exists()


def test_unknown_models_and_tags() -> None:
    with pytest.raises(UserError, match=r"unknown model resnet5O.*Did you mean resnet50"):
        load_backbone(_settings(model="resnet5O", pretrained=True))
    with pytest.raises(UserError, match="no pretrained weights called a9_in1k"):
        load_backbone(_settings(model="resnet50.a9_in1k", pretrained=True))
    with pytest.raises(UserError, match="wrong `args`"):
        load_backbone(_settings(args={"stem_widht": 8}, fit={}))
    odd = {"embed_dim": 100, "num_heads": 3}  # which timm asserts to divide
    with pytest.raises(UserError, match="wrong `args`"):
        load_backbone(_settings(model="vit_tiny_patch16_224", args=odd, fit={}))


def test_pretrained_weights_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be loaded.*local `checkpoint`"):
        load_backbone(spec.Backbone(model="resnet10t.c3_in1k", pretrained=True))


def test_identity_follows_the_content(checkpoint: Path) -> None:
    first = file_hash(str(checkpoint))
    assert file_hash(str(checkpoint)) == first
    content = bytearray(checkpoint.read_bytes())
    content[-1] ^= 1
    checkpoint.with_name("other.safetensors").write_bytes(content)
    assert file_hash(str(checkpoint.with_name("other.safetensors"))) != first


def test_preprocessing_is_the_models_own_and_can_be_overridden(checkpoint: Path) -> None:
    own = load_backbone(_settings(checkpoint=str(checkpoint))).preprocessing
    config = timm.get_pretrained_cfg("resnet10t")
    assert own.input_size == config.input_size[1:]
    assert own.mean == config.mean
    assert own.interpolation == config.interpolation
    changed = load_backbone(
        _settings(checkpoint=str(checkpoint), preprocessing={"input_size": [64, 96]})
    )
    assert changed.preprocessing.input_size == (64, 96)
