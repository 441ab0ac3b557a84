"""Small models of images and texts, in folders as Hugging Face transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

SIDE = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 4}
SIDE |= {"num_attention_heads": 2}


def tokenizer_of(folder: Path) -> Any:
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary += [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def save(folder: Path, kind: str) -> tuple[Any, Any]:
    """Save a small model with a tokenizer and a processor; the model and the processor."""
    folder.mkdir()
    torch.manual_seed(0)
    tokenizer = tokenizer_of(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**SIDE, "vocab_size": 60, "max_position_embeddings": 32, **ends}
    vision = {**SIDE, "image_size": 64, "patch_size": 16}
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        model = transformers.CLIPModel(config).eval()
        size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
        processor = transformers.CLIPImageProcessor(**size)
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config).eval()
        with torch.no_grad():
            model.logit_scale.fill_(2.0)
            model.logit_bias.fill_(-1.0)
        processor = transformers.SiglipImageProcessor(size={"height": 64, "width": 64})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor
