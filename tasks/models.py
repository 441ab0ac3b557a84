"""Loaded backbones, heads, explainers and metrics; the backbone that was used last stays loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from ttame_core import spec
from ttame_core.backbones import Backbone, load_backbone
from ttame_core.backbones.checkpoints import file_hash
from ttame_core.backbones.devices import place, return_freed_memory
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, Explainer, Trained
from ttame_core.heads.attention import Head
from ttame_core.heads.files import load_head
from ttame_core.lake import dataset_file, fingerprint, head_folder
from ttame_core.metrics import REGISTRY as REGISTRY_OF_METRICS
from ttame_core.metrics import Family
from ttame_core.stages.matched import match_of
from ttame_core.stages.provenance import Provenance
from ttame_core.training.orders import TrainingShards

_in_use = Lock()
_loading = Lock()
_loaded: dict[str, Any] = {}


@contextmanager
def one_network() -> Iterator[None]:
    """Hold a lock while a unit uses neural networks, and give the memory back that it has freed.

    The threads of a process, such as a Dask worker's, take turns: a network with hooks serves one
    thread at a time, and memory has room for one network.
    """
    with _in_use:
        try:
            yield
        finally:
            return_freed_memory()


def check_fitted(provenance: Provenance, settings: spec.Backbone) -> None:
    """Check that a backbone with a section `fit` has been trained.

    Raises:
        UserError: the backbone has not been trained.
    """
    if settings.fit is not None and not provenance.is_fitted(settings):
        raise UserError(
            f"backbone {settings.name} has not been trained yet: run `ttame fit-backbone`"
        )


def current_head(
    provenance: Provenance, backbone: spec.Backbone, settings: spec.Explainer, explainer: Trained
) -> Head:
    """Load the head of an explainer from the workspace.

    Whether the head was trained as the spec says can be checked only where the workspace holds the
    data set; where it does not, the head is taken as it is.

    Raises:
        UserError: there is no head, or it was not trained as the spec says.
    """
    there = provenance.lake.exists(dataset_file(provenance.dataset, "shards.parquet"))
    if there and not provenance.head_is_current(backbone, settings):
        raise UserError(
            f"{provenance.lake} has no head of {settings.name} on {backbone.name} that was "
            "trained as the spec says: run `ttame train`"
        )
    return _head(provenance, backbone, settings, explainer)


def _head(
    provenance: Provenance, backbone: spec.Backbone, settings: spec.Explainer, explainer: Trained
) -> Head:
    folder = head_folder(provenance.dataset, backbone.name, settings.name)
    return load_head(provenance.lake, folder, explainer)


def backbone_of(provenance: Provenance, settings: spec.Backbone) -> Backbone:
    """Return a frozen classifier of an audit, on the audit's device.

    Raises:
        UserError: the classifier is not trained yet, or does not know all labels of the data set.
    """
    check_fitted(provenance, settings)
    # The name is part of the identity, because two backbones may have the same weights.
    content = provenance.backbone(settings), settings.taps, provenance.lake.url
    identity = fingerprint([settings.name, *content])
    compute = provenance.audit.compute
    with _loading:
        if _loaded.get("identity") != (identity, compute):
            _loaded.clear()  # frees the memory of the last one
            _loaded["backbone"] = place(load(provenance, settings), compute)
            _loaded["identity"] = (identity, compute)
        backbone: Backbone = _loaded["backbone"]
    match_of(provenance, settings, backbone)
    return backbone


def family_of(metric: spec.Metric) -> Family:
    """Return a family of metrics with its settings, the same object for all shards of a backbone.

    A family may hold what it has made from the backbone, such as copies with shuffled weights. It
    is dropped together with the loaded backbone.
    """
    with _loading:
        families: dict[str, Family] = _loaded.setdefault("families", {})
        key = metric.model_dump_json(include={"family", "settings"})
        if key not in families:
            families[key] = REGISTRY_OF_METRICS[metric.family](metric.settings)
        return families[key]


def training_shards(provenance: Provenance) -> TrainingShards:
    """Return the shards of the splits train and val, for the trainings of an audit."""
    train, val = (provenance.shards(split) for split in ("train", "val"))
    compute = provenance.audit.compute
    return TrainingShards(provenance.lake, provenance.dataset, train, val, compute)


def load(provenance: Provenance, settings: spec.Backbone) -> Backbone:
    """Load a frozen classifier of an audit, on the CPU.

    Raises:
        UserError: the classifier cannot be loaded, or its weights from `fit` were changed.
    """
    weights = provenance.fitted_weights(settings)
    if weights is None:
        return load_backbone(settings)
    with provenance.lake.local_copy(weights) as path:
        if provenance.fitted_identity(settings) != f"sha256:{file_hash(path)}":
            raise UserError(
                f"the weights at {provenance.lake.path(weights)} are not those that were trained "
                "there: delete them and run again"
            )
        return load_backbone(settings, path, len(provenance.classes))


def explainer_of(
    provenance: Provenance, model: Backbone, backbone: spec.Backbone, settings: spec.Explainer
) -> Explainer:
    """Make an explainer of an audit on a loaded backbone.

    Raises:
        NotApplicable: the explainer cannot explain this backbone.
    """
    explainer = REGISTRY[settings.method](model, settings.settings)
    if isinstance(explainer, Trained):
        explainer.use(_head(provenance, backbone, settings, explainer))
    return explainer
