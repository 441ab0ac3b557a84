"""The library of ttame: maps of where in an image a classifier's decision came from, and scores.

    import ttame_core as tt

    backbone = tt.load_backbone("resnet50", pretrained=True)
    head = tt.train_head(backbone, loader)
    maps = tt.explain(backbone, images, "ttame", head=head)
    scores = tt.evaluate(backbone, images, maps)

These functions take and return tensors, and need neither a lake nor Prefect; `ttame_core.api`
documents them. Modules are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttame_core.api import (
        evaluate,
        explain,
        load_backbone,
        load_head,
        make_explainer,
        query,
        save_head,
        train_head,
    )
    from ttame_core.errors import UserError
    from ttame_core.lake import Lake

__version__ = version("ttame")

_PLACES = {
    "Lake": "ttame_core.lake",
    "UserError": "ttame_core.errors",
    "evaluate": "ttame_core.api",
    "explain": "ttame_core.api",
    "load_backbone": "ttame_core.api",
    "load_head": "ttame_core.api",
    "make_explainer": "ttame_core.api",
    "query": "ttame_core.api",
    "save_head": "ttame_core.api",
    "train_head": "ttame_core.api",
}

__all__ = [
    "Lake",
    "UserError",
    "__version__",
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
