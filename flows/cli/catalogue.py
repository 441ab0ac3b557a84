"""Commands that list architectures, explainers and metrics."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import out
from tasks.logs import say
from ttame_core.errors import UserError
from ttame_core.imports import quickly


def backbones(
    pattern: Annotated[str, typer.Argument(help="name or wildcard, such as 'swin*'")] = "*",
    check: Annotated[
        bool, typer.Option("--check", help="train and explain one step with random weights")
    ] = False,
) -> None:
    """List the architectures that can be explained, with the taps that would be used.

    Examples:
        ttame backbones
        ttame backbones 'swin*'
        ttame backbones resnet50 --check
    """
    with quickly():
        from ttame_core.report.listings import coverage_line
        from ttame_core.training import coverage

    failed = 0
    for model in coverage.find_architectures(pattern):
        try:
            print(coverage_line(coverage.describe(model)), flush=True)
            if check:
                coverage.check(coverage.random_backbone(model))
        except UserError as error:
            failed += 1
            say(str(error), "error")
    if failed:
        raise typer.Exit(2)


def explainers() -> None:
    """List the explainers with the cost of a map in passes, what they need, and their settings.

    A pass is one through the classifier, beyond the pass that all explainers share. C is the number
    of the tap's channels; taps and blocks are the numbers of taps and of a transformer's blocks.

    Examples:
        ttame explainers
    """
    from ttame_core.report.listings import all_explainers, explainers_table

    out(200).print(explainers_table(all_explainers()))


def metrics() -> None:
    """List the families of metrics that a spec can ask for, their metrics, and their settings.

    Higher is better where a metric has ↑. In a name such as AD@*, the * stands for a number, as in
    AD@15.

    Examples:
        ttame metrics
    """
    from ttame_core.report.listings import all_families, metrics_table

    out(200).print(metrics_table(all_families()))
