"""Files of trained heads: in a lake with the history of their training, or single files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save

from ttame_core.backbones import Backbone, Tap
from ttame_core.errors import UserError
from ttame_core.heads.attention import Head, SharedHead
from ttame_core.lake import Lake, fingerprint
from ttame_core.lake.schemas import HEAD, HISTORY, REFUSED

# What a head's file says of it: the maps that it gives, and its fusion module; first the defaults.
FORMS = (("shown", ("class", "attention")), ("fusion", ("rows", "shared")))


class TakesHead(Protocol):
    """An explainer that can make an untrained head of its own shape, to be filled from a file.

    Attributes:
        backbone: the classifier that the explainer explains.
        taps: taps of the backbone that the head reads.
    """

    backbone: Backbone
    taps: Sequence[Tap]

    def new_head(self, shown: str = ..., fusion: str = ...) -> Head:
        """Make an untrained head of the right shape, on the backbone's device."""
        ...


def read_head(path: str | Path, explainer: TakesHead, hint: str) -> Head:
    """Read the trained head in a safetensors file.

    Args:
        path: the file.
        explainer: explainer that the head belongs to.
        hint: words on what the user can do; errors end with them.

    Returns:
        The head on the backbone's device, in evaluation mode.

    Raises:
        UserError: the file cannot be read, or the head does not fit.
    """
    if os.path.lexists(path) and not Path(path).is_file():
        raise UserError(f"the head {path} is no plain file: give a file of safetensors")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the head {path}: {error.strerror}") from error
    return _head_of(content, explainer, str(path), hint)


def load_head(lake: Lake, folder: str, explainer: TakesHead) -> Head:
    """Read the trained head in a folder of the lake.

    Args:
        lake: the workspace.
        folder: folder of the head.
        explainer: explainer that the head belongs to.

    Returns:
        The head on the backbone's device, in evaluation mode.

    Raises:
        UserError: there is no head, its file was changed, or it does not fit.
    """
    path = f"{folder}/head.safetensors"
    if not lake.exists(path):
        raise UserError(f"there is no head at {lake.path(path)}: run `ttame train`")
    content = lake.read_bytes(path)
    trained = lake.metadata(f"{folder}/history.parquet").get(HEAD)
    if trained not in (None, _digest(content)):
        raise UserError(
            f"the head at {lake.path(path)} is not as it was trained: delete it and run `ttame "
            "train`"
        )
    return _head_of(content, explainer, lake.path(path), "delete it and run `ttame train`")


def write_head(
    lake: Lake, folder: str, head: Head, history: Sequence[Mapping[str, Any]], made_from: Any
) -> None:
    """Write a trained head to a folder of the lake: head.safetensors, spec.json, history.parquet.

    The history is written last, with its fingerprint and the head's hash, which show that the head
    is whole.

    Args:
        lake: the workspace.
        folder: folder of the head.
        head: the trained head.
        history: rows of the schema `HISTORY`.
        made_from: description of what the head was made from.
    """
    content = head_bytes(head, fingerprint=fingerprint(made_from))
    with lake.create(f"{folder}/head.safetensors") as temporary:
        temporary.write_bytes(content)
    lake.write_json(f"{folder}/spec.json", made_from)
    about = {HEAD: _digest(content)}
    lake.write_parquet(f"{folder}/history.parquet", list(history), HISTORY, made_from, **about)


def is_whole_head(lake: Lake, folder: str) -> bool:
    """Say whether a head's folder is complete and unchanged.

    It holds the head that was trained, or the reason why the explainer does not apply.
    """
    about = lake.metadata(f"{folder}/history.parquet")
    path = f"{folder}/head.safetensors"
    if REFUSED in about or not lake.exists(path):
        return REFUSED in about
    return about.get(HEAD) in (None, lake.sha256(path))  # earlier versions wrote no hash


def adopt_head(lake: Lake, path: str, explainer: TakesHead, folder: str, made_from: Any) -> None:
    """Copy a trained head from a file into a folder of the lake, with an empty history.

    Args:
        lake: the workspace.
        path: file of the head.
        explainer: explainer that the head belongs to.
        folder: folder of the head in the lake.
        made_from: description of what the head was made from.

    Raises:
        UserError: the file cannot be read, or the head does not fit.
    """
    hint = "give `head` another file, or leave it out to train one"
    write_head(lake, folder, read_head(path, explainer, hint), [], made_from)


def refuse_head(lake: Lake, folder: str, made_from: Any, reason: str) -> None:
    """Write into a head's folder that the explainer does not apply to the backbone, and why."""
    lake.remove(f"{folder}/head.safetensors")
    lake.write_parquet(f"{folder}/history.parquet", [], HISTORY, made_from, **{REFUSED: reason})


def remove_head(lake: Lake, folder: str) -> None:
    """Remove the files that `write_head` writes; other files of the folder stay."""
    for name in ("history.parquet", "spec.json", "head.safetensors"):
        lake.remove(f"{folder}/{name}")


def head_bytes(head: Head, **about: str) -> bytes:
    """Return the content of a safetensors file with a trained head.

    Args:
        head: the head.
        **about: texts that are stored beside the weights.
    """
    state = {k: v.contiguous().cpu() for k, v in head.state_dict().items()}
    fusion = "shared" if isinstance(head, SharedHead) else "rows"
    # A single entry, because the order of several would change from file to file.
    return save(state, {"ttame": json.dumps({**about, "shown": head.shown, "fusion": fusion})})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _head_of(content: bytes, explainer: TakesHead, path: str, hint: str) -> Head:
    """Return the head in the content of a safetensors file, as `read_head` does."""
    backbone = explainer.backbone
    try:
        state = load(content)
        head = explainer.new_head(*_form(content))
        kinds = {name: value.is_floating_point() for name, value in head.state_dict().items()}
        if any(value.is_floating_point() != kinds.get(n) for n, value in state.items()):
            raise ValueError("it has weights of another kind of numbers")
        head.load_state_dict(state)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(
            f"the head at {path} does not fit backbone {backbone.name} "
            f"({json.dumps([tap.channels for tap in explainer.taps])} channels, "
            f"{backbone.num_classes} classes): {hint}"
        ) from error
    if not all(value.isfinite().all() for value in head.state_dict().values()):
        raise UserError(f"the head at {path} holds numbers that are not finite: {hint}")
    return head.eval()


def _form(content: bytes) -> list[str]:
    """Return `shown` and `fusion` of a head, from the texts beside its weights.

    The library reads these texts only from files. Imported heads have none, and earlier ones no
    `fusion`.
    """
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about = json.loads((header.get("__metadata__") or {}).get("ttame", "{}"))
    form = [about.get(name, known[0]) for name, known in FORMS] if isinstance(about, dict) else []
    if not form or any(value not in known for value, (_, known) in zip(form, FORMS, strict=True)):
        raise ValueError(f"it says of itself {about}")
    return form
