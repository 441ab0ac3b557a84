"""Loaded backbones: the last one used is kept, since its shards come one after another."""

from __future__ import annotations

from threading import Lock
from typing import Any

from ttame_core import spec
from ttame_core.backbones import Backbone, load_backbone
from ttame_core.compute import place
from ttame_core.errors import UserError
from ttame_core.explaining import check_labels
from ttame_core.lake import fingerprint
from ttame_core.provenance import Provenance

_loading = Lock()
_loaded: dict[str, Any] = {}


def backbone_of(provenance: Provenance, settings: spec.Backbone) -> Backbone:
    """The frozen classifier of an audit, on its device."""
    if settings.fit is not None and not provenance.is_fitted(settings):
        raise UserError(
            f"backbone {settings.name} has not been trained yet: run `ttame fit-backbone`"
        )
    identity = fingerprint([provenance.backbone(settings), settings.taps, provenance.lake.url])
    compute = provenance.audit.compute
    with _loading:
        if _loaded.get("identity") != (identity, compute):
            _loaded.clear()  # frees the last one first
            _loaded["backbone"] = place(load(provenance, settings), compute)
            _loaded["identity"] = (identity, compute)
        backbone: Backbone = _loaded["backbone"]
    check_labels(len(provenance.classes) - 1, backbone.num_classes, backbone.name)
    return backbone


def load(provenance: Provenance, settings: spec.Backbone) -> Backbone:
    """The frozen classifier of an audit, on the CPU."""
    weights = provenance.fitted_weights(settings)
    if weights is None:
        return load_backbone(settings)
    with provenance.lake.local_copy(weights) as path:
        return load_backbone(settings, path, len(provenance.classes))
