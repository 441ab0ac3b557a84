"""Classifiers of prompts give what the models of images and texts themselves give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from texts_and_images import SIDE, save, tokenizer_of

from ttame_core import spec
from ttame_core.backbones import load_backbone
from ttame_core.data.loader import Batch
from ttame_core.errors import UserError
from ttame_core.explainers import forward_pass
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.files import head_bytes, read_head

transformers = pytest.importorskip("transformers")

PROMPTS = {"cat": "a photo of a cat", "dog": "a photo of a dog", "owl": "an owl at night"}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_logits_are_the_models_own(tmp_path: Path, kind: str) -> None:
    model, processor = save(tmp_path / "m", kind)
    section = {"model": str(tmp_path / "m"), "prompts": PROMPTS}
    backbone = load_backbone(spec.Backbone.model_validate(section))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    picture = Image.fromarray(pixels)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    tokens = tokenizer(
        list(PROMPTS.values()), padding="max_length", max_length=32, return_tensors="pt"
    )
    images = processor(images=picture, return_tensors="pt")
    with torch.no_grad():
        own = model(**tokens, **images).logits_per_image
        view = backbone.preprocessing.pixels(picture)[None].float() / 255
        logits, features = backbone.features(backbone.normalise(view))
    torch.testing.assert_close(logits, own, atol=1e-4, rtol=1e-4)
    assert backbone.num_classes == 3
    assert backbone.outputs.kind == {"clip": "softmax", "siglip": "sigmoid"}[kind]
    assert [tap.prefix for tap in backbone.taps] == [{"clip": 1, "siglip": 0}[kind]] * 3
    assert [tuple(f.shape) for f in features] == [(1, 24, 4, 4)] * 3
    assert not any("text" in name for name, _ in backbone.model.named_parameters())


def test_several_texts_and_templates(tmp_path: Path) -> None:
    save(tmp_path / "m", "clip")
    model = {"model": str(tmp_path / "m")}
    listed = spec.Backbone.model_validate(
        {**model, "prompts": ["cat", "dog"], "template": "a photo of a {}"}
    )
    assert listed.texts == {"cat": ["a photo of a cat"], "dog": ["a photo of a dog"]}
    spelled = spec.Backbone.model_validate(
        {**model, "prompts": {"cat": ["a photo of a cat"], "dog": "a photo of a dog"}}
    )
    both = [load_backbone(section).model.embeddings for section in (listed, spelled)]
    assert torch.equal(*both)
    mixed = spec.Backbone.model_validate({**model, "prompts": {"cat": ["a cat", "cats"], "d": "d"}})
    embeddings = load_backbone(mixed).model.embeddings
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (["cat", "dog", "cat "], "two classes 'cat'"),
        ({"caf\u00e9": "one", "cafe\u0301": "two"}, "two classes 'café'"),
        ({"cat": "a cat"}, "two classes or more"),
        ({"cat": " ", "dog": "a dog"}, "a name and a text"),
        ({"cat": [], "dog": "a dog"}, "a name and a text"),
        (["", "dog"], "a name and a text"),
    ],
)
def test_prompts_that_name_no_classes(prompts: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        spec.Backbone.model_validate({"model": "/models/clip", "prompts": prompts})


def test_templates() -> None:
    section = {"model": "/models/clip", "template": "{} of {x}, a {}"}
    listed = spec.Backbone.model_validate({**section, "prompts": ["ox", "{}"]})
    assert listed.texts["ox"] == ["ox of {x}, a ox"]
    for wrong in ({"prompts": PROMPTS}, {"prompts": ["a", "b"], "template": "a photo"}):
        with pytest.raises(ValidationError, match="`template`"):
            spec.Backbone.model_validate({**section, **wrong})


def test_what_is_no_model_of_texts(tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    folder.mkdir()
    config = transformers.ViTConfig(**SIDE, image_size=64, patch_size=16)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    tokenizer_of(folder).save_pretrained(folder)
    section = spec.Backbone.model_validate({"model": str(folder), "prompts": PROMPTS})
    with pytest.raises(UserError, match="for models of images and texts"):
        load_backbone(section)
    for wrong in ({"model": "resnet18", "pretrained": True}, {"model": str(folder), "fit": {}}):
        with pytest.raises(ValidationError, match="`prompts`"):
            spec.Backbone.model_validate({**wrong, "prompts": PROMPTS})
    save(tmp_path / "clip", "clip")
    with pytest.raises(UserError, match="by `prompts`"):
        load_backbone(spec.Backbone.model_validate({"model": str(tmp_path / "clip")}))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_head_of_one_list_of_names_explains_another_list(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "m", kind)

    def explainer(prompts: dict[str, str]) -> TTame:
        section = {"model": str(tmp_path / "m"), "prompts": prompts}
        return TTame(load_backbone(spec.Backbone.model_validate(section)))

    first = explainer(PROMPTS)
    head = first.new_head("class", "shared")
    torch.manual_seed(1)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    (tmp_path / "head.safetensors").write_bytes(head_bytes(head))
    other = explainer({**PROMPTS, "fox": "a red fox", "ox": "an ox in a field"})
    read = read_head(tmp_path / "head.safetensors", other, "")
    assert read.state_dict().keys() == head.state_dict().keys()

    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    forward = forward_pass(other.backbone, Batch.bare(["a", "b"], images))
    maps = other.use(read).attribute(forward, torch.arange(5).expand(2, 5))
    # By hand: the row of a class is the matrix, read by its text's embedding among the others'.
    embeddings = other.backbone.model.embeddings
    rows = embeddings - embeddings.mean(dim=0)
    rows = 2 * rows / rows.abs().sum(dim=1, keepdim=True)
    rows = torch.cat([rows, torch.full((5, 1), 2.0)], dim=1) @ head.matrix.detach()
    same = explainer(PROMPTS | {"fox": "a red fox", "ox": "an ox in a field"}).new_head(
        "class", "shared"
    )
    same.load_state_dict(head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(same.vectors(None) @ same.matrix, rows)
        direct = same.eval()(forward.features, torch.arange(5).expand(2, 5))
    torch.testing.assert_close(maps, direct, atol=1e-4, rtol=1e-4)
    assert maps.shape[:2] == (2, 5)
    assert (maps[:, 3] - maps[:, 4]).abs().max() > 1e-4  # new names have maps of their own
