"""Pixels as those of Hugging Face's own image processors, or a refusal by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ttame_core import spec
from ttame_core.backbones import load_backbone
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.backbones.processors import repeated
from ttame_core.errors import UserError

transformers = pytest.importorskip("transformers")

SIZES = [(321, 240), (199, 301), (47, 60), (500, 90)]
# What gives no pixels of one size, turns or pads pictures, or rounds sizes in a way of its own.
REFUSED = {
    "DonutImageProcessor": "do_thumbnail",
    "ImageGPTImageProcessor": "Clusters must be provided",
    "PPLCNetImageProcessor": "resize_short",
    "Siglip2ImageProcessor": r"gives \(1, \d+, \d+\)",
    "TextNetImageProcessor": "different sizes",
}


def _names() -> list[str]:
    """Return the processors of all architectures that classify images."""
    from transformers.models.auto import image_processing_auto, modeling_auto

    classifiers = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    processors = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES
    found = {processors[kind].get("torchvision") for kind in classifiers if kind in processors}
    return sorted(filter(None, found))


def _compare(processor: Any) -> None:
    """Compare pixels, of pictures that the reading has not seen, within two levels of 255."""
    view = Preprocessing.from_config(repeated(processor))
    for width, height in SIZES:
        cells = np.random.default_rng(1).integers(0, 256, (height // 6, width // 6, 3), np.uint8)
        picture = Image.fromarray(cells).resize((width, height), Image.Resampling.BILINEAR)
        own = processor(images=picture, return_tensors="pt")["pixel_values"].float()
        ours = view.normalise(view.pixels(picture)[None].float() / 255)
        levels = (own - ours).abs() * 255 * torch.tensor(view.std).view(1, 3, 1, 1)
        assert levels.mean() < 0.5, (width, height)
        assert levels.max() < 3.5, (width, height)  # Pillow and torch round bicubic edges apart


@pytest.mark.parametrize("name", _names())
def test_processors_of_all_architectures(name: str) -> None:
    processor = getattr(transformers, name)()
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            repeated(processor)
    else:
        _compare(processor)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViTImageProcessor", {"do_normalize": False}),
        ("ViTImageProcessor", {"do_rescale": False}),
        ("ViTImageProcessor", {"do_rescale": False, "do_normalize": False}),
        ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "do_normalize": False}),
        ("ViTImageProcessor", {"size": {"height": 96, "width": 160}}),
        ("ViTImageProcessor", {"resample": 0}),
        ("ViTImageProcessor", {"resample": 1}),
        ("ViTImageProcessor", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 225}, "crop_pct": 0.9}),
        ("BitImageProcessor", {"crop_size": {"height": 192, "width": 160}}),
        ("BitImageProcessor", {"size": {"shortest_edge": 255}}),
        ("BitImageProcessor", {"crop_size": 288}),
        ("EfficientNetImageProcessor", {"include_top": False}),
        ("EfficientNetImageProcessor", {"rescale_offset": True}),
        ("EfficientNetImageProcessor", {"do_center_crop": True}),
        ("MobileViTImageProcessor", {"do_flip_channel_order": False}),
        ("PerceiverImageProcessor", {"crop_size": {"height": 280, "width": 280}}),
        ("PoolFormerImageProcessor", {"crop_pct": 0.95, "size": {"height": 200, "width": 200}}),
        ("LevitImageProcessor", {"size": {"height": 240, "width": 240}}),
    ],
)
def test_settings_of_processors(name: str, settings: dict[str, Any]) -> None:
    _compare(getattr(transformers, name)(**settings))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("BitImageProcessor", {"do_center_crop": False}, "different sizes"),
        ("ViTImageProcessor", {"do_resize": False}, "different sizes"),
        ("CLIPImageProcessor", {"do_resize": False}, "do_center_crop"),
        ("ViTImageProcessor", {"size": {"shortest_edge": 64, "longest_edge": 90}}, "different"),
        ("ViTImageProcessor", {"do_pad": True, "pad_size": {"height": 256, "width": 256}}, "pad"),
    ],
)
def test_what_cannot_be_repeated_is_named(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*{words}"):
        repeated(getattr(transformers, name)(**settings))


def _saved(folder: Path, **settings: Any) -> Any:
    torch.manual_seed(0)
    size = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.ViTConfig(**size, intermediate_size=48, image_size=64, patch_size=16)
    model = transformers.ViTForImageClassification(config).eval()
    model.to(settings.pop("dtype", torch.float32)).save_pretrained(folder)
    if settings:
        transformers.DonutImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return model


def test_a_refusal_names_the_backbone_and_gives_way_to_the_spec(tmp_path: Path) -> None:
    _saved(tmp_path, donut=True)
    section = {"model": str(tmp_path), "name": "mine"}
    with pytest.raises(UserError, match=r"backbone mine: DonutImageProcessor.*`preprocessing`"):
        load_backbone(spec.Backbone.model_validate(section))
    view = {"input_size": [64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "channel_order": "bgr"}
    loaded = load_backbone(spec.Backbone.model_validate({**section, "preprocessing": view}))
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert loaded.normalise(red).flatten().tolist() == [-2, -2, 2]


def test_another_size_than_the_processors_keeps_its_crop(tmp_path: Path) -> None:
    _saved(tmp_path)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}
    )
    processor.save_pretrained(tmp_path)
    section = {"model": str(tmp_path), "preprocessing": {"input_size": [32, 32]}}
    with pytest.raises(UserError, match="32×32"):
        load_backbone(spec.Backbone.model_validate(section))
    loaded = load_backbone(spec.Backbone.model_validate({"model": str(tmp_path)}))
    assert loaded.preprocessing.resize == 80
    boxes = loaded.preprocessing.boxes(torch.tensor([[0.0, 0.0, 80.0, 80.0]]), (160, 80))
    assert boxes.tolist() == [[0, 0, 32, 64]]  # the crop begins at 48, 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(tmp_path: Path, dtype: torch.dtype) -> None:
    model = _saved(tmp_path, dtype=dtype)
    loaded = load_backbone(spec.Backbone.model_validate({"model": str(tmp_path)}))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs), model.float()(inputs).logits)


def test_a_head_that_is_not_in_the_folder_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if not k.startswith("classifier")},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(UserError, match=r"no weights for classifier\.bias \(2 are missing\)"):
        load_backbone(spec.Backbone.model_validate({"model": str(tmp_path)}))
    assert load_backbone(spec.Backbone.model_validate({"model": str(tmp_path), "fit": {}}))


def test_a_folder_of_timm(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("test_resnet", num_classes=5).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    view = {
        "input_size": [3, 96, 96],
        "crop_pct": 0.8,
        "crop_mode": "border",
        "interpolation": "bicubic",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "num_classes": 5,
        "first_conv": "stem.0",
        "classifier": "head.fc",
    }
    config = {"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": view}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_backbone(spec.Backbone.model_validate({"model": str(tmp_path)}))
    assert loaded.preprocessing == Preprocessing.from_config(view)
    inputs = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs), model(inputs), atol=1e-5, rtol=1e-4)
