"""Where in the image a classifier's decision came from: `import ttame_core as tt`.

    backbone = tt.load_backbone("resnet50", pretrained=True)
    head = tt.train_head(backbone, loader)
    maps = tt.explain(backbone, images, "ttame", head=head)
    scores = tt.evaluate(backbone, images, maps)

Tensors go in and come out; there is no lake and no Prefect. What each takes stands with it, in
`ttame_core.tensors`. Nothing is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttame_core.errors import UserError
    from ttame_core.lake import Lake
    from ttame_core.tensors import (
        evaluate,
        explain,
        load_backbone,
        load_head,
        make_explainer,
        query,
        save_head,
        train_head,
    )

_PLACES = {
    "Lake": "ttame_core.lake",
    "UserError": "ttame_core.errors",
    "evaluate": "ttame_core.tensors",
    "explain": "ttame_core.tensors",
    "load_backbone": "ttame_core.tensors",
    "load_head": "ttame_core.tensors",
    "make_explainer": "ttame_core.tensors",
    "query": "ttame_core.tensors",
    "save_head": "ttame_core.tensors",
    "train_head": "ttame_core.tensors",
}

__all__ = [
    "Lake",
    "UserError",
    "evaluate",
    "explain",
    "load_backbone",
    "load_head",
    "make_explainer",
    "query",
    "save_head",
    "train_head",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
