"""Task of the flow sweep_training."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from tasks.progress import progress
from tasks.training import train_one
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.errors import UserError
from ttame_core.explainers import NotApplicable, training_of
from ttame_core.heads.files import remove_head
from ttame_core.lake import Lake, trial_file
from ttame_core.stages.provenance import Provenance
from ttame_core.training.head import with_enough_epochs
from ttame_core.training.sweep import propose, read_trials, write_trial


@unit("trial {number} of {explainer.name} on {backbone.name}")
def try_settings(
    audit: spec.AuditSpec,
    workspace: str,
    backbone: spec.Backbone,
    explainer: spec.Explainer,
    number: int,
) -> Any:
    """Train a head with settings chosen by the results of earlier trials, and store its scores."""
    lake = Lake(workspace)
    of = (audit.dataset.name, backbone.name, explainer.name)
    provenance = Provenance(audit, lake)
    own, _ = with_enough_epochs(training_of(audit.training, explainer), provenance.shards("train"))
    if not own.epochs:
        raise UserError(
            "training.epochs and training.min_steps are 0, so heads are not trained and a sweep "
            "has nothing to compare: set one of the two"
        )
    settings = propose(own, read_trials(lake, *of)[:number])
    tried = {**explainer.settings, "training": settings.model_dump()}
    explainer = explainer.model_copy(update={"settings": tried})
    made_from = provenance.head(backbone, explainer)
    path = trial_file(*of, number)
    if lake.is_current(path, made_from):
        return skipped()
    if not provenance.shards("val") or not settings.validation_samples:
        raise UserError(
            f"a sweep compares heads on the split val, but data set {provenance.dataset} has no "
            "images in it, or training.validation_samples is 0: give val a share in "
            "`dataset.splits`, and validation_samples at least 1"
        )
    folder = path.removesuffix(".parquet")
    try:
        title = f"trial {number} of {explainer.name} on {backbone.name}"
        with progress(title, "steps") as report:
            train_one(provenance, backbone, explainer, folder, report)
    except NotApplicable as reason:
        get_run_logger().warning(
            "%s does not apply to %s: %s", explainer.name, backbone.name, reason
        )
        return None
    history = lake.read_table(f"{folder}/history.parquet").to_pylist()
    for stale in lake.glob(trial_file(*of, None))[number:]:
        lake.remove(stale)  # trials that followed from an older one of this number
    write_trial(lake, path, settings, history, made_from)
    remove_head(lake, folder)
    return None
