"""Classifiers of other libraries: built, prepared for, tapped, and refused with a reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from ttame_core import spec
from ttame_core.backbones import load_backbone, own_weights
from ttame_core.errors import UserError
from ttame_core.training.coverage import check


def backbone(model: str, **settings: object) -> spec.Backbone:
    spec.trust(model)
    return spec.Backbone.model_validate({"model": model, **settings})


def test_torchvision_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = models.mobilenet_v3_small(num_classes=7).eval()
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    settings = backbone(
        "torchvision/mobilenet_v3_small",
        checkpoint=str(tmp_path / "weights.safetensors"),
        num_classes=7,
    )
    loaded = load_backbone(settings)
    assert settings.name == "torchvision-mobilenet_v3_small"
    assert loaded.num_classes == 7
    assert [tap.name for tap in loaded.taps] == ["features.3", "features.8", "features"]
    inputs = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        logits, features = loaded.features(inputs)
        expected = [reference(inputs), reference.features[:9](inputs)]
    torch.testing.assert_close([logits, features[1]], expected)
    own = models.MobileNet_V3_Small_Weights.DEFAULT.transforms()
    ours = loaded.preprocessing
    assert ours.input_size == (own.crop_size[0],) * 2
    assert ours.crop_pct == own.crop_size[0] / own.resize_size[0]
    assert ours.mean == tuple(own.mean)
    assert ours.interpolation == own.interpolation.value


TAPS = {
    "resnet18": ["layer2", "layer3", "layer4"],
    "convnext_tiny": ["features.3", "features.5", "features"],
    "swin_t": ["features.3", "features.5", "features"],
    "densenet121": ["features.denseblock2", "features.denseblock3", "features"],
    "vgg11": ["features.14", "features.19", "features"],
    "vit_b_32": [f"encoder.layers.encoder_layer_{i}" for i in (9, 10, 11)],
    "maxvit_t": ["blocks.1", "blocks.2", "blocks.3"],
    "googlenet": ["inception3b", "inception4e", "inception5b"],
}


LARGE = ("vgg11", "vit_b_32", "maxvit_t")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long if n in LARGE else ()) for n in TAPS]
)
def test_taps_of_torchvision_models(name: str) -> None:
    loaded = load_backbone(
        backbone(f"torchvision/{name}", fit={}, args={"init_weights": True})
        if name == "googlenet"
        else backbone(f"torchvision/{name}", fit={})
    )
    assert [tap.name for tap in loaded.taps] == TAPS[name]
    check(loaded)


def save_hugging_face(folder: Path, kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=48,
            num_hidden_layers=4,
            num_attention_heads=3,
            intermediate_size=96,
            image_size=64,
            patch_size=8,
            num_labels=6,
        )
        model = transformers.ViTForImageClassification(config)
    else:
        config = transformers.SwinConfig(
            image_size=64,
            patch_size=2,
            embed_dim=12,
            depths=[1, 1, 1],
            num_heads=[1, 2, 4],
            window_size=4,
            num_labels=6,
        )
        model = transformers.SwinForImageClassification(config)
    model.save_pretrained(folder)
    preparation = {
        "size": {"height": 64, "width": 64},
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.2, 0.2],
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return model.eval()


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_a_hugging_face_folder(tmp_path: Path, kind: str) -> None:
    reference = save_hugging_face(tmp_path / "model", kind)
    settings = backbone(str(tmp_path / "model"), name="mine")
    loaded = load_backbone(settings)
    assert loaded.num_classes == 6
    assert loaded.preprocessing.mean == (0.4, 0.5, 0.6)
    assert loaded.preprocessing.interpolation == "bicubic"
    assert loaded.preprocessing.input_size == (64, 64)
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits, features = loaded.features(inputs)
        assert torch.allclose(logits, reference(inputs).logits, atol=1e-6)
        hidden = reference(inputs, output_hidden_states=True)
    if kind == "vit":
        expected = hidden.hidden_states[-1][:, 1:].transpose(1, 2).unflatten(2, (8, 8))
        assert torch.allclose(features[-1], expected, atol=1e-5)
    assert [tap.prefix for tap in loaded.taps] == [1 if kind == "vit" else 0] * 3
    check(loaded)
    before = own_weights(settings)
    preparation = tmp_path / "model" / "preprocessor_config.json"
    preparation.write_text(preparation.read_text().replace("0.4", "0.3"))
    assert own_weights(settings) != before
    before = own_weights(settings)
    with torch.no_grad():
        reference.classifier.bias += 1
    reference.save_pretrained(tmp_path / "model")
    assert own_weights(settings) != before


def test_a_model_of_numbers_is_no_classifier(tmp_path: Path) -> None:
    save_hugging_face(tmp_path / "model", "vit")
    config = tmp_path / "model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"problem_type": "regression"}))
    with pytest.raises(UserError, match="holds a model of numbers"):
        load_backbone(backbone(str(tmp_path / "model"), name="mine"))


class Odd(nn.Module):
    """Two stages, blocks that return a pair, logits in a dictionary."""

    def __init__(self, width: int = 8, num_classes: int = 4) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.pair = Pair()
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x, _ = self.pair(self.deep(self.down(x)))
        return {"logits": self.fc(x.mean(dim=(2, 3)))}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return self.act(x), 0


def not_a_model() -> str:
    return "no"


def no_maps(num_classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, num_classes))


def test_a_users_own_function() -> None:
    here = f"{__name__}:Odd"
    assert sys.modules[__name__].Odd is Odd
    settings = backbone(here, args={"width": 6}, preprocessing={"input_size": [64, 64]})
    loaded = load_backbone(settings)
    assert loaded.num_classes == 4
    assert [tap.name for tap in loaded.taps] == ["down", "pair[0]"]
    assert [(tap.channels, tap.height) for tap in loaded.taps] == [(6, 16), (12, 8)]
    check(loaded)
    assert load_backbone(backbone(here, num_classes=9)).num_classes == 9
    named = load_backbone(backbone(here, taps=["down.0", "pair[0]"]))
    assert [tap.name for tap in named.taps] == ["down.0", "pair[0]"]
    assert own_weights(settings).startswith("sha256:")


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("torchvision/resnet51", {"pretrained": True}, "Did you mean resnet50"),
        ("torchvision/resnet50.V9", {"pretrained": True}, "it has IMAGENET1K_V1"),
        ("torchvision/resnet18", {"fit": {}, "args": {"depth": 3}}, "wrong `args`"),
        ("./no/such/folder", {}, "there is no folder"),
        ("no.such.module:net", {}, "cannot import net from no.such.module"),
        (f"{__name__}:Missing", {}, "cannot import Missing"),
        (f"{__name__}:Odd", {"args": {"heigth": 3}}, "wrong `args`"),
        (f"{__name__}:not_a_model", {}, "returned a str"),
        (f"{__name__}:no_maps", {}, "found no feature maps.*name modules in `taps`"),
        (f"{__name__}:Odd", {"taps": ["pair"]}, r"returns \[0\]"),
    ],
)
def test_what_cannot_be_loaded_is_said(model: str, settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_backbone(backbone(model, **settings))


def test_a_folder_that_is_no_classifier(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "no-such"}')
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no image classifier"):
        load_backbone(backbone(str(tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_backbone(backbone(str(tmp_path)))
