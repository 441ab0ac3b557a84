"""Commands that run one stage of an audit each."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import HERE, Spec, Variables, Workspace, out
from flows.cli.running import finish, load, run
from ttame_core.lake import Lake


def shard(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Write the data set as WebDataset shards, with its index and annotations.

    Examples:
        ttame shard my-audit.yaml
    """
    finish(run("shard_dataset", spec, workspace, var))


def fit_backbone(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Train the classifiers that have a `fit:` section.

    Examples:
        ttame fit-backbone my-audit.yaml
    """
    finish(run("fit_backbones", spec, workspace, var))


def train(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Train the attention head of each backbone.

    Examples:
        ttame train my-audit.yaml
    """
    finish(run("train_heads", spec, workspace, var))


def explain(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Write the explanation maps.

    Examples:
        ttame explain my-audit.yaml
    """
    finish(run("explain_dataset", spec, workspace, var))


def evaluate(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Score the explanation maps.

    Examples:
        ttame evaluate my-audit.yaml
    """
    finish(run("evaluate_maps", spec, workspace, var))


def sweep(
    spec: Spec,
    trials: Annotated[int, typer.Option(min=1, help="heads trained for each backbone")] = 20,
    workspace: Workspace = HERE,
    var: Variables = None,
) -> None:
    """Search for better training settings, and say how far the spec's are from the best.

    Examples:
        ttame sweep my-audit.yaml
        ttame sweep my-audit.yaml --trials 50
    """
    failed = run("sweep_training", spec, workspace, var, trials=trials)
    from ttame_core.explainers import REGISTRY
    from ttame_core.report.listings import sweep_table
    from ttame_core.training.sweep import read_trials, shortfall

    audit = load(spec, var)
    console = out()
    for backbone in audit.backbones:
        for explainer in audit.explainers:
            if not REGISTRY[explainer.method].needs_head:
                continue
            tried = read_trials(Lake(workspace), audit.dataset.name, backbone.name, explainer.name)
            if tried:
                title = f"{explainer.name} on {backbone.name}"
                console.print(sweep_table(title, tried, shortfall(tried)))
    finish(failed)
