"""What an audit knows of each backbone that tells how far its explanations can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, median
from typing import Any, NamedTuple

import duckdb
import numpy as np

from ttame_core.audits.record import Recorded
from ttame_core.audits.statistics import bootstrap_weights
from ttame_core.explainers import REGISTRY
from ttame_core.lake.query.connection import answer
from ttame_core.lake.query.variables import set_variables
from ttame_core.lake.schemas import BACKBONE, RIVAL
from ttame_core.report.findings import Findings, sql_text
from ttame_core.stages.roles import rivals

ENOUGH = 5  # images of a class, from which on its mean says something
FAR = 30.0  # points of the average drop that make a class stand apart


class Interval(NamedTuple):
    """A value with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """The evidence about the explanations of one backbone.

    Values of explainers are those of rivals, by name; one that was not measured is missing.

    Attributes:
        backbone: name of the backbone.
        failure: the error with which the backbone failed; empty where it did not.
        gates: checks of the spec's gates on the backbone.
        broken: sentences of those that do not hold.
        images: number of explained images.
        labelled: number of those whose class is known.
        classes: number of classes that occur among those.
        usual: median number of images of a class; None without labels.
        commonest: share of the largest class, in percent; None without labels.
        outputs: number of the classifier's own classes; None where it is not known.
        accuracy: percentage of right predictions.
        normalised: row of normalised.sql; None where no labelled picture was normalised otherwise.
        discrimination: points of AD@15 between random maps and annotated objects.
        minimum: points of discrimination that are asked for.
        way: share of the way from random maps to annotated objects, in percent.
        gain: points of the average drop by which maps are better than random ones.
        permuted: correlation with the maps of a head that was trained on permuted labels, -1 to 1.
        randomised: rank correlation with the maps of the classifier with random weights, -1 to 1.
        trained: names of the explainers with a trained head.
        losses: first and last loss of each head whose training is known, and the standard
            deviation of its ups and downs.
        weak: classes on which a head's maps keep far less than on others, and than another's.
        between_images: mean correlation of the maps of two images.
        between_classes: mean correlation of the maps of two classes of one image.
    """

    backbone: str
    failure: str = ""
    gates: int = 0
    broken: Sequence[str] = ()
    images: int = 0
    labelled: int = 0
    classes: int = 0
    usual: float | None = None
    commonest: float | None = None
    outputs: int | None = None
    accuracy: Interval | None = None
    normalised: Mapping[str, Any] | None = None
    discrimination: Interval | None = None
    minimum: float = 30.0
    way: Mapping[str, Interval] = field(default_factory=dict)
    gain: Mapping[str, Interval] = field(default_factory=dict)
    permuted: Mapping[str, float] = field(default_factory=dict)
    randomised: Mapping[str, float] = field(default_factory=dict)
    trained: Sequence[str] = ()
    losses: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    weak: Mapping[str, Sequence[str]] = field(default_factory=dict)
    between_images: Mapping[str, float] = field(default_factory=dict)
    between_classes: Mapping[str, float] = field(default_factory=dict)


def weigh(recorded: Recorded, findings: Findings) -> list[Evidence]:
    """Return the evidence about each backbone of an audit, by name, as the page's tables are.

    Args:
        recorded: content of the record; its connection sees the single values of the record
            (`own_values`) and the variables of `findings.gather`.
        findings: findings about the audit.
    """
    db, audit = recorded.db, recorded.audit
    board = recorded.board.to_pylist()
    if findings.keep is not None:
        set_variables(db, {"drop": f"AD@{findings.keep:g}"})
    counts = {row["backbone"]: row for row in _rows(db, "counts")}
    normalised = {row["backbone"]: row for row in _rows(db, "normalised")}
    way, gain = _ways(db) if findings.keep is not None else ({}, {})
    likeness = _by_explainer(_rows(db, "likeness"))
    several = audit.maps.targets != "predicted"
    targets = _by_explainer(_rows(db, "targets")) if several else {}
    trained = [
        e.name
        for e in audit.explainers
        if e.name in rivals(audit) and REGISTRY[e.method].needs_head
    ]

    def of_rivals(backbone: str, metric: str) -> dict[str, float]:
        return {
            row["explainer"]: row["value"]
            for row in board
            if (row["backbone"], row["metric"], row["role"]) == (backbone, metric, RIVAL)
        }

    def of_backbone(backbone: str, metric: str) -> Interval | None:
        cells = (backbone, BACKBONE, metric)
        return next(
            (
                Interval(row["value"], row["ci_low"], row["ci_high"])
                for row in board
                if (row["backbone"], row["explainer"], row["metric"]) == cells
            ),
            None,
        )

    evidence = []
    for name in sorted({*(b.name for b in audit.backbones), *recorded.failures}):
        gates = [c for c in recorded.changes if c["gate"] and c["backbone"] == name]
        known: dict[str, Any] = {
            "backbone": name,
            "failure": recorded.failures.get(name, ""),
            "gates": len(gates),
            "broken": [row["words"] for row in gates if row["failed"]],
            "minimum": audit.evaluation.minimum_discrimination,
        }
        if name not in recorded.failures:
            there = [
                e
                for e in trained
                if any((r["backbone"], r["explainer"]) == (name, e) for r in board)
            ]
            known |= {k: v for k, v in counts.get(name, {}).items() if k != "backbone"}
            known |= {
                "accuracy": of_backbone(name, "accuracy"),
                "normalised": normalised.get(name),
                "discrimination": of_backbone(name, "discrimination"),
                "way": way.get(name, {}),
                "gain": gain.get(name, {}),
                "permuted": of_rivals(name, "sanity_labels"),
                "randomised": of_rivals(name, "sanity_correlation@100"),
                "trained": there,
                "losses": _losses(findings, name, there),
                "weak": _weak_classes(findings, name, there),
                "between_images": likeness.get(name, {}),
                "between_classes": targets.get(name, {}),
            }
        evidence.append(Evidence(**known))
    return evidence


def _rows(db: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    return answer(db, sql_text(name)).to_pylist()


def _by_explainer(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the column `likeness` by backbone and explainer."""
    likeness: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["likeness"] is not None:
            likeness.setdefault(row["backbone"], {})[row["explainer"]] = row["likeness"]
    return likeness


Intervals = dict[str, dict[str, Interval]]


def _ways(db: duckdb.DuckDBPyConnection) -> tuple[Intervals, Intervals]:
    """Return the share of the way to the annotated objects, and the points above random maps.

    Both are bootstrapped over the same groups of images, so that easy and hard images weigh alike
    on both sides. There is no share where random maps are as good as the objects.
    """
    weights = bootstrap_weights(db)
    sums: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _rows(db, "way"):
        sums.setdefault((row["backbone"], row["explainer"]), []).append(row)
    ways: Intervals = {}
    gains: Intervals = {}
    for (backbone, explainer), rows in sums.items():
        bucket = [row["bucket"] for row in rows]

        def total(of: Callable[[Mapping[str, Any]], float]) -> np.ndarray:
            return np.bincount(bucket, [of(row) for row in rows], minlength=256)  # noqa: B023

        images = total(lambda r: r["images"])
        above = total(lambda r: r["random"] - r["rival"])
        gains.setdefault(backbone, {})[explainer] = _ratio(above, images, weights)
        if all(row["oracle"] is not None for row in rows):
            whole = total(lambda r: r["random"] - r["oracle"])
            if whole.sum() > 0:
                share = _ratio(100 * above, whole, weights)
                ways.setdefault(backbone, {})[explainer] = share
    return ways, gains


def _ratio(above: np.ndarray, below: np.ndarray, weights: np.ndarray) -> Interval:
    """Return a ratio of sums over groups of images, (256,) each, with its bootstrap interval."""
    tops, bottoms = weights @ above, weights @ below
    sure = bottoms > 0
    low, high = np.quantile(tops[sure] / bottoms[sure], [0.025, 0.975])
    return Interval(float(above.sum() / below.sum()), float(low), float(high))


def _losses(
    findings: Findings, backbone: str, trained: Sequence[str]
) -> dict[str, tuple[float, float, float]]:
    """Return each head's loss at the beginning of its training, its mean over the end, and noise.

    The noise is the standard deviation of a loss around the course of the training, from the
    distances of each from the next.
    """
    losses = {}
    for explainer in trained:
        rows = [
            row
            for row in findings.series["training"]
            if (row["backbone"], row["explainer"], row["metric"]) == (backbone, explainer, "loss")
        ]
        own = [row["value"] for row in sorted(rows, key=lambda row: row["step"])]
        if len(own) > 1:
            end = own[-max(1, len(own) // 20) :]
            last = mean(end) if all(map(math.isfinite, end)) else math.nan
            noise = math.sqrt(mean((b - a) ** 2 for a, b in pairwise(own)) / 2)
            losses[explainer] = own[0], last, noise
    return losses


def _weak_classes(
    findings: Findings, backbone: str, trained: Sequence[str]
) -> dict[str, list[str]]:
    """Return the classes that lose FAR more with a head's maps than most, and than with others'."""
    drops: dict[str, dict[str, float]] = {}
    for row in findings.series["classes"]:
        if row["backbone"] == backbone and row["images"] >= ENOUGH:
            drops.setdefault(row["explainer"], {})[row["class"]] = row["value"]
    weak = {}
    for explainer in trained:
        own = drops.get(explainer, {})
        if len(own) < 3:
            continue
        usual = median(own.values())
        others = [by_class for name, by_class in drops.items() if name != explainer]
        weak[explainer] = [
            name
            for name, value in own.items()
            if value > usual + FAR and any(o.get(name, value) < value - FAR for o in others)
        ]
    return weak
