"""Classifiers of prompts that open_clip's models make give what the models themselves give."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from ttame_core import spec
from ttame_core.backbones import Backbone, load_backbone, own_weights
from ttame_core.data.loader import Batch
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, NotApplicable, forward_pass
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.files import head_bytes, read_head

open_clip = pytest.importorskip("open_clip")

PROMPTS = {"cat": "a photo of a cat", "dog": "a photo of a dog", "owl": ["an owl", "owls at night"]}
TEXT = {"width": 32, "heads": 2, "layers": 2, "context_length": 24}
TIMM = {"timm_pool": "", "timm_proj": "linear", "image_size": 64}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": {"width": 32, "head_width": 16, "layers": 4, "patch_size": 16, "image_size": 64},
    "resnet": {"width": 8, "head_width": 16, "layers": [1, 1, 1, 1], "image_size": 64},
    "timm": {**TIMM, "timm_model_name": "test_vit3", "timm_pool": "map", "image_size": 160},
    "convnext": {**TIMM, "timm_model_name": "test_convnext", "image_size": 160},
}

TAPS = {
    "vit": [(32, 4, 4)] * 3,
    "resnet": [(64, 8, 8), (128, 4, 4), (256, 2, 2)],
    "timm": [(96, 10, 10)] * 3,
    "convnext": [(32, 20, 20), (48, 10, 10), (64, 5, 5)],
}


def save(here: Path, tower: str, **about: Any) -> tuple[Any, dict[str, Any]]:
    """Save a small model as open_clip publishes models; the model and the section of a spec."""
    here.mkdir(exist_ok=True)
    view = about.pop("preprocess_cfg", {})
    config = {"embed_dim": 16, "vision_cfg": TOWERS[tower], "text_cfg": TEXT, **about}
    content = {"model_cfg": config, "preprocess_cfg": view}
    (here / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{here}")
    for name, values in model.named_parameters():
        if values.ndim > 1 and "token_embedding" not in name:
            torch.nn.init.normal_(values, std=0.1)
        elif name.endswith("bn3.weight"):  # which begin as zeros
            torch.nn.init.ones_(values)
    save_file(model.state_dict(), here / "open_clip_model.safetensors")
    model.prepare = prepare
    return model.eval(), {"model": str(here), "prompts": PROMPTS}


def load(section: dict[str, Any]) -> Backbone:
    return load_backbone(spec.Backbone.model_validate(section))


def picture(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("tower", [*TOWERS])
def test_logits_and_pixels_are_the_models_own(tmp_path: Path, tower: str) -> None:
    model, section = save(tmp_path / "m", tower)
    backbone = load(section)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}/m")
    for size in ((211, 333), (331, 240)):
        image = model.prepare(picture(size))[None]
        view = backbone.preprocessing.pixels(picture(size))[None].float() / 255
        assert (backbone.normalise(view) - image).abs().max() <= 1e-6
    with torch.no_grad():
        classifier = open_clip.build_zero_shot_classifier(
            model, tokenizer, ["cat", "dog"], ["a photo of a {}"]
        )
        features = model.encode_image(image, normalize=True)
        own = model.logit_scale.exp() * features @ classifier
        logits, maps = backbone.features(image)
        owls = model.encode_text(tokenizer(PROMPTS["owl"]), normalize=True).mean(dim=0)
        owl = model.logit_scale.exp() * features @ torch.nn.functional.normalize(owls, dim=0)
    torch.testing.assert_close(logits, torch.cat([own, owl[:, None]], dim=1), atol=1e-5, rtol=1e-5)
    assert backbone.classes.names == [*PROMPTS]
    assert backbone.outputs.kind == "softmax"
    sides = {name.split(".")[2] for name, _ in backbone.named_parameters()}
    assert sides == {"visual", "logit_scale"}
    assert [tuple(features.shape[1:]) for features in maps] == TAPS[tower]


def test_what_has_a_bias_is_as_siglip(tmp_path: Path) -> None:
    view = {"resize_mode": "squash", "interpolation": "bilinear", "mean": 0.5, "std": [0.5] * 3}
    about = {"init_logit_bias": -2.0, "init_logit_scale": 1.0, "custom_text": True}
    model, section = save(tmp_path / "m", "vit", preprocess_cfg=view, **about)
    backbone = load(section)
    image = model.prepare(picture((99, 140)))[None]
    pixels = backbone.preprocessing.pixels(picture((99, 140)))[None].float() / 255
    assert (backbone.normalise(pixels) - image).abs().max() <= 1e-6
    texts = open_clip.get_tokenizer(f"local-dir:{tmp_path}/m")([*PROMPTS.values()][:2])
    with torch.no_grad():
        own = model.get_logits(image, texts)[0]
        logits = backbone(image)
    torch.testing.assert_close(logits[:, :2], own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone.probabilities(logits), logits.sigmoid())
    assert backbone.outputs.kind == "sigmoid"


def test_a_captioner_has_its_contrastive_side(tmp_path: Path) -> None:
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    vision = {**TOWERS["vit"], "attentional_pool": True, "attn_pooler_heads": 4}
    captions = {"width": 32, "heads": 2, "layers": 1, "context_length": 24, "attn_pooler_heads": 4}
    about = {"custom_text": True, "multimodal_cfg": captions, "text_cfg": text}
    about["vision_cfg"] = {**vision, "output_tokens": True}
    model, section = save(tmp_path / "m", "vit", **about)
    image = model.prepare(picture((64, 64)))[None]
    texts = open_clip.get_tokenizer(f"local-dir:{tmp_path}/m")([*PROMPTS.values()][:2])
    with torch.no_grad():
        sides = model.encode_image(image), model.encode_text(texts)
        own = model.logit_scale.exp() * sides[0] @ sides[1].T
        torch.testing.assert_close(load(section)(image)[:, :2], own, atol=1e-5, rtol=1e-5)


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """A network that open_clip knows as `tiny`: the model, and a section without weights."""
    model, section = save(tmp_path / "m", "vit")
    config = json.loads((tmp_path / "m/open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    for name in ("_MODEL_CONFIG_PATHS", "_MODEL_CONFIGS"):
        monkeypatch.setattr(open_clip.factory, name, getattr(open_clip.factory, name).copy())
    open_clip.add_model_config(tmp_path / "tiny.json")
    return model, {**section, "model": "open_clip/tiny"}


@pytest.mark.parametrize("form", ["safetensors", "of open_clip's training", "of another training"])
def test_a_name_and_a_checkpoint(
    tmp_path: Path, named: tuple[Any, dict[str, Any]], form: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, section = named
    file, state = tmp_path / "m/open_clip_model.safetensors", model.state_dict()
    if form != "safetensors":
        file = tmp_path / "epoch_3.pt"
        training = {"state_dict": {f"module.{name}": values for name, values in state.items()}}
        other = {"model_state_dict": {f"model._orig_mod.{k}": v for k, v in state.items()}}
        torch.save({"epoch": 3, **(training if "open_clip" in form else other)}, file)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        backbone = load({**section, "checkpoint": str(file)})
    assert not caplog.records
    assert backbone.name == "open_clip-tiny"
    image = model.prepare(picture((64, 64)))[None]
    of_folder = load({"model": str(tmp_path / "m"), "prompts": PROMPTS})
    assert torch.equal(backbone(image), of_folder(image))


def test_what_cannot_be_loaded_is_one_sentence(
    tmp_path: Path, named: tuple[Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model, section = named
    file, folder = tmp_path / "other.safetensors", {**section, "model": str(tmp_path / "m")}
    state = model.state_dict()
    save_file({name: values for name, values in state.items() if "ln_final" not in name}, file)
    (tmp_path / "none").mkdir()
    known = ["model.safetensors", "open_clip_config.json"]
    content = json.loads((tmp_path / "m" / known[1]).read_text())
    for name, part, values in (
        ("none", "model_cfg", {}),
        ("padded", "preprocess_cfg", {"resize_mode": "longest"}),
        ("texts", "model_cfg", {"text_cfg": {"hf_model_name": "someone/code"}}),
        ("tokens", "model_cfg", {"text_cfg": {**TEXT, "hf_tokenizer_name": "someone/code"}}),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        changed = {**content, part: {**content[part], **values}}
        (tmp_path / name / known[1]).write_text(json.dumps(changed))
        if name != "none":
            save_file(state, tmp_path / name / known[0])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / known[1]).write_text("{}")
    published = {"pretrained": True, "prompts": PROMPTS}
    same = {"cat": "A Cat", "dog": "a dog", "the cat": " a cat "}
    checkpoint = {**section, "checkpoint": str(file)}
    for wrong, words in (
        ({**folder, "prompts": None}, "name its classes by `prompts`"),
        ({**folder, "prompts": same}, "the prompts of cat and the cat are the same"),
        ({**folder, "args": {"img_size": 32}}, "takes no `args`"),
        (checkpoint, "of another architecture .* ln_final.bias is missing"),
        ({**checkpoint, "model": "open_clip/tinny"}, "no such network. Did you mean tiny"),
        *(
            ({**section, "model": str(tmp_path / name)}, words)
            for name, words in (
                ("none", "cannot load .*Required pretrained weights"),
                ("padded", "pads pictures"),
                ("texts", "someone/code, which may have code of its own"),
                ("tokens", "open_clip cannot load"),
                ("broken", "open_clip cannot load .*missing 'model_cfg'"),
            )
        ),
        ({**published, "model": "open_clip/tiny"}, "no published weights .* it has none"),
        ({**published, "model": "open_clip/ViT-B-32.x"}, "called x: .* it has openai, laion"),
        ({**published, "model": "open_clip/ViT-B-32.openai"}, "ViT-B-32-quickgelu.openai"),
        ({**published, "model": "open_clip/ViT-B-32.datacomp_xl_s13b_b90k"}, "go online once"),
    ):
        with pytest.raises(UserError, match=words):
            load(wrong)
    for wrong in ({"fit": {}}, {"num_classes": 3}, {"prompts": None}, {}):
        with pytest.raises(ValidationError, match=r"`prompts`|has no weights"):
            spec.Backbone.model_validate({**checkpoint, **wrong} if wrong else section)
    with pytest.raises(ValidationError, match=r"name: `open_clip/ViT-B-32\.laion2b`"):
        spec.Backbone.model_validate(
            {**published, "model": "open_clip/ViT-B-32", "pretrained": "laion2b"}
        )
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install 'ttame\[open-clip\]'"):
        load(folder)


def test_a_folder_is_known_by_its_files(tmp_path: Path) -> None:
    _, section = save(tmp_path / "m", "vit")
    (tmp_path / "m/config.json").write_text("{}")  # whose weights are not there
    assert load(section).num_classes == 3
    settings = spec.Backbone.model_validate(section)
    before = own_weights(settings)
    assert own_weights(settings) == before
    (tmp_path / "m/vocabulary.json").write_text("{}")
    assert own_weights(settings) != before


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_head_of_one_list_of_names_explains_another_beside_rivals(
    tmp_path: Path, tower: str
) -> None:
    _, section = save(tmp_path / "m", tower)
    first = TTame(load(section))
    head = first.new_head("class", "shared")
    torch.manual_seed(1)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    (tmp_path / "head.safetensors").write_bytes(head_bytes(head))
    more = {**PROMPTS, "fox": "a red fox", "ox": "an ox in a field"}
    other = TTame(load({**section, "prompts": more}))
    embeddings = other.backbone.model.embeddings
    torch.testing.assert_close(embeddings[:3], first.backbone.model.embeddings)
    assert torch.equal(other.backbone.class_vectors.weight, embeddings)
    read = read_head(tmp_path / "head.safetensors", other, "")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    batch = Batch.bare(["a", "b"], images)
    targets = torch.arange(5).expand(2, 5)
    maps = other.use(read).attribute(forward_pass(other.backbone, batch), targets)
    assert (maps[:, 3] - maps[:, 4]).abs().max() > 1e-4  # new names have maps of their own
    rivals = ("gradcam", "layercam", "legrad", "rollout", "attnlrp")
    for name in rivals:
        try:
            rival = REGISTRY[name](other.backbone)
            given = rival.attribute(forward_pass(other.backbone, batch), targets[:, :2])
        except NotApplicable:
            assert name == "attnlrp" or tower == "resnet"
            continue
        assert given.isfinite().all()
        assert given.std() > 1e-3
