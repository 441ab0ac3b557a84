"""Search for better training settings than the spec's, by Optuna, with trials in the lake.

A proposal follows from the trials before it and the seed alone. So a sweep that was cut short, or
is asked for more trials, goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from ttame_core import spec
from ttame_core.lake import Lake, trial_file
from ttame_core.lake.schemas import SWEEPS
from ttame_core.seeding import seed_of_step

OBJECTIVES: dict[str, Literal["minimize", "maximize"]] = {"AD@15": "minimize", "IC@15": "maximize"}
AT_RANDOM = 8  # number of random trials, before the sampler learns from them

Trial = dict[str, float]  # swept settings and objectives, by name

optuna.logging.set_verbosity(optuna.logging.WARNING)


def space(settings: spec.Training) -> dict[str, BaseDistribution]:
    """Return the ranges of the swept settings, around the spec's own values.

    They are the learning rate and λ1 to λ3, all log-uniform, and the number of epochs.
    """
    own = settings.model_dump()
    factors = {"learning_rate": 10.0} | dict.fromkeys(
        ("lambda_variation", "lambda_area", "lambda_confidence"), 4.0
    )
    around: dict[str, BaseDistribution] = {
        name: FloatDistribution(own[name] / factor, own[name] * factor, log=True)
        for name, factor in factors.items()
        if own[name] > 0  # a term that is switched off stays off
    }
    return around | {"epochs": IntDistribution(1, 2 * settings.epochs)}


def propose(settings: spec.Training, trials: Sequence[Trial]) -> spec.Training:
    """Return the settings of the next trial; the first trial has the spec's own."""
    if not trials:
        return settings
    around = space(settings)
    sampler = optuna.samplers.TPESampler(
        seed=seed_of_step(settings.seed, len(trials), bits=32),
        n_startup_trials=AT_RANDOM,
        multivariate=True,
    )
    study = optuna.create_study(directions=list(OBJECTIVES.values()), sampler=sampler)
    study.add_trials(
        [
            optuna.create_trial(
                params={name: trial[name] for name in around},
                distributions=around,
                values=[trial[name] for name in OBJECTIVES],
            )
            for trial in trials
        ]
    )
    return settings.model_copy(update=study.ask(around).params)


def write_trial(
    lake: Lake, path: str, settings: spec.Training, history: list[dict[str, Any]], made_from: Any
) -> None:
    """Write the result of a trial: a row for each metric of the head's last validation."""
    swept = {name: getattr(settings, name) for name in SWEEPS.names if hasattr(settings, name)}
    values = {row["term"]: row["value"] for row in history if "@" in row["term"]}
    rows = [{**swept, "metric": metric, "value": value} for metric, value in values.items()]
    lake.write_parquet(path, rows, SWEEPS, made_from)


def read_trial(lake: Lake, path: str) -> Trial:
    """Read a trial: the swept settings and the objectives, by name."""
    rows = lake.read_table(path).to_pylist()
    swept = {name: rows[0][name] for name in SWEEPS.names[:-2]}
    return swept | {row["metric"]: row["value"] for row in rows}


def read_trials(lake: Lake, dataset: str, backbone: str, explainer: str) -> list[Trial]:
    """Return the trials in the lake, in order; the first has the spec's own settings."""
    paths = lake.glob(trial_file(dataset, backbone, explainer, None))
    return [read_trial(lake, path) for path in paths]


def shortfall(trials: Sequence[Trial]) -> dict[str, float]:
    """Return the distance, in points, of the first trial from the best value of each objective."""
    return {
        name: max(sign * (trial[name] - trials[0][name]) for trial in trials)
        for name, sign in (("AD@15", -1), ("IC@15", 1))
    }
