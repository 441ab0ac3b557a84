"""Files of heads: what is loaded is what was trained, and is numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_backbone

from ttame_core.errors import UserError
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.files import (
    adopt_head,
    is_whole_head,
    load_head,
    read_head,
    remove_head,
    write_head,
)
from ttame_core.lake import Lake


def test_a_head_that_was_replaced_is_not_used(tmp_path: Path) -> None:
    lake, explainer = Lake(tmp_path), TTame(tiny_backbone())
    write_head(lake, "heads", explainer.new_head(), [], "x")
    assert is_whole_head(lake, "heads")
    load_head(lake, "heads", explainer)
    path = tmp_path / "heads/head.safetensors"
    save_file({k: torch.ones_like(v) for k, v in load_file(path).items()}, path)
    assert not is_whole_head(lake, "heads")
    with pytest.raises(UserError, match=r"head\.safetensors is not as it was trained"):
        load_head(lake, "heads", explainer)


def test_a_head_of_no_numbers_is_refused(tmp_path: Path) -> None:
    explainer = TTame(tiny_backbone())
    state = {k: v.contiguous() for k, v in explainer.new_head().state_dict().items()}
    state["fuser.weight"] = torch.full_like(state["fuser.weight"], torch.nan)
    save_file(state, tmp_path / "given.safetensors")
    with pytest.raises(UserError, match=r"given\.safetensors holds numbers that are not finite"):
        adopt_head(Lake(tmp_path), str(tmp_path / "given.safetensors"), explainer, "heads", "x")


@pytest.mark.parametrize(
    "about",
    ["[]", "1", "{", "[" * 100_000, '{"shown": "all"}', '{"fusion": ["rows"]}', '{"shown": null}'],
)
def test_a_head_that_says_something_odd_of_itself_is_refused(about: str, tmp_path: Path) -> None:
    explainer = TTame(tiny_backbone())
    state = {k: v.contiguous() for k, v in explainer.new_head().state_dict().items()}
    save_file(state, tmp_path / "given.safetensors", {"ttame": about})
    with pytest.raises(UserError, match=r"given\.safetensors does not fit"):
        read_head(tmp_path / "given.safetensors", explainer, "give another")


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        (torch.int64, 1, "does not fit"),
        (torch.complex64, 1j, "does not fit"),
        (torch.bool, True, "does not fit"),
        (torch.float64, 1e300, "not finite"),  # infinite in single precision
    ],
)
def test_weights_that_single_precision_does_not_hold_are_refused(
    dtype: torch.dtype, value: complex, words: str, tmp_path: Path
) -> None:
    explainer = TTame(tiny_backbone())
    state = explainer.new_head().state_dict()
    for name in [name for name, weight in state.items() if weight.is_floating_point()]:
        state[name] = torch.full_like(state[name], value, dtype=dtype)
    save_file(state, tmp_path / "given.safetensors")
    with pytest.raises(UserError, match=words):
        read_head(tmp_path / "given.safetensors", explainer, "give another")


def test_a_pipe_is_no_head(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no plain file"):
        read_head(tmp_path / "pipe", TTame(tiny_backbone()), "give another")


def test_what_others_put_beside_a_head_is_not_removed_with_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write_head(lake, "trial", TTame(tiny_backbone()).new_head(), [], "x")
    (tmp_path / "trial/notes.txt").write_text("mine")
    (tmp_path / "trial/folder").mkdir()
    remove_head(lake, "trial")
    assert sorted(p.name for p in (tmp_path / "trial").iterdir()) == ["folder", "notes.txt"]
