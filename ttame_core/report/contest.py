"""The answer to "Which explainer is best?", by metrics that no explainer was trained for.

T-TAME's loss asks for what AD, IC and AG measure, so these decide nothing. What decides is ROAD,
insertion and deletion, and localisation. Each metric of these on each backbone is a contest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ttame_core.lake.query.directions import direction
from ttame_core.lake.query.units import shown
from ttame_core.lake.schemas import RIVAL
from ttame_core.report.answers import Answer, Line, counted, listed
from ttame_core.report.tables import Best, Rows, wins

QUESTION = "Which explainer is best?"
DECIDING = ("road", "curves", "localization")  # families that no explainer is trained for
SHOWN = 4  # explainers with a sentence each, at most


@dataclass(frozen=True)
class Contest:
    """A metric on a backbone.

    Attributes:
        metric: name of the metric.
        backbone: name of the backbone.
        first: names of the explainers with the best value.
        apart: whether a single one has it, and beats the next one beyond chance.
    """

    metric: str
    backbone: str
    first: Sequence[str]
    apart: bool


def contests(
    rows: Rows, metrics: Sequence[str], winners: Mapping[str, Mapping[str, Best]]
) -> list[Contest]:
    """Return the contests that decide which explainer is best.

    Args:
        rows: rows of `tables.wide`.
        metrics: metrics that are looked at; those of other families than DECIDING are left out.
        winners: best rivals by metric and backbone (`findings.certain_winners`).
    """
    held = []
    for metric in metrics:
        if direction(metric).family not in DECIDING:
            continue
        first: dict[str, list[str]] = {}
        for row in rows:
            if wins(row, metric, winners.get(metric, {})):
                first.setdefault(row["backbone"], []).append(row["explainer"])
        for backbone, names in first.items():
            held.append(Contest(metric, backbone, names, winners[metric][backbone].apart))
    return held


def best_of(
    rows: Rows,
    held: Sequence[Contest],
    drop: str | None,
    blind: Collection[str],
) -> Answer:
    """Answer which explainer is best, at what, and at what it is not.

    An explainer is best where it is ahead in more than half of all contests, and certainly so where
    it beats the next one beyond chance in more than half, and none beats it beyond chance.

    Args:
        rows: rows of `tables.wide`.
        held: contests.
        drop: the average drop, for a sentence that says it decides nothing; None without one.
        blind: names of the backbones on which AD and IC rank nothing.
    """
    rivals = {row["explainer"] for row in rows if row["role"] == RIVAL}
    if not rivals:
        return Answer(QUESTION, "plain", "Not known: no explainer was measured")
    if len(rivals) == 1:
        return Answer(QUESTION, "plain", f"Not known: {next(iter(rivals))} alone was measured")
    trained_for = _trained_for(rows, drop, blind)
    if not held:
        words = (
            "No metric was measured that compares explainers fairly: how much of the confidence "
            "a map keeps (AD, IC and AG) is what some, such as ttame, are trained for. "
            "Localisation does, which takes annotated objects, and so do road and curves among "
            "the metrics."
        )
        return Answer(QUESTION, "plain", "Not known", [Line(words), *trained_for])
    ahead = {name: [c for c in held if [*c.first] == [name]] for name in rivals}
    certain = {name: [c for c in own if c.apart] for name, own in ahead.items()}
    ranked = sorted(rivals, key=lambda n: (-len(ahead[n]), -len(certain[n]), n))
    lines = [_ahead(name, ahead[name]) for name in ranked[:SHOWN] if ahead[name]]
    best, second = ranked[0], ranked[1]
    beaten = [c for c in held if best not in c.first]
    level = [c for c in held if len(c.first) > 1]
    if level:
        lines.append(Line(f"Several are level at {_where(level)}.", "best"))
    if beaten and ahead[best]:
        lines.append(Line(f"{best} is not best at {_where(beaten)}.", "best"))
    lines += trained_for
    of = f"{len(ahead[best])} of {counted(len(held), 'comparison')}"
    if not ahead[best]:
        return Answer(QUESTION, "plain", "No single one: the best are level everywhere", lines)
    if len(ahead[best]) == len(ahead[second]):
        leading = [n for n in ranked if len(ahead[n]) == len(ahead[best])]
        return Answer(QUESTION, "plain", f"No single one: {listed(leading, 3)} are level", lines)
    if 2 * len(ahead[best]) <= len(held):
        return Answer(QUESTION, "plain", f"It depends: {best} is ahead in {of}", lines)
    lost = any(c.apart for c in beaten)
    if 2 * len(certain[best]) > len(held) and not lost:
        return Answer(
            QUESTION, "good", f"{best}: ahead in {of}, beyond chance in {len(certain[best])}", lines
        )
    short = f"{best}: ahead in {of}, beyond chance in {len(certain[best])}"
    return Answer(QUESTION, "plain", short, lines)


def _ahead(name: str, own: Sequence[Contest]) -> Line:
    certain = sum(c.apart for c in own)
    sure = f", beyond chance in {certain} of {len(own)}" if certain else ": this may be chance"
    return Line(f"{name} is ahead at {_where(own)}{sure}.", "best")


def _where(own: Sequence[Contest]) -> str:
    """Name metrics with the backbones: once where all have the same, else behind each metric."""
    by_metric: dict[str, list[str]] = {}
    for contest in own:
        by_metric.setdefault(contest.metric, []).append(contest.backbone)
    backbones = set(map(tuple, by_metric.values()))
    if len(backbones) == 1 and len(by_metric) > 1:
        return f"{listed(list(by_metric), 4)} (each on {listed(backbones.pop(), 3)})"
    return listed([f"{metric} ({listed(names, 3)})" for metric, names in by_metric.items()], 4)


def _trained_for(rows: Rows, drop: str | None, blind: Collection[str]) -> list[Line]:
    """Say who keeps most confidence, and that this decides nothing."""
    if drop is None:
        return []
    leads = []
    for backbone in dict.fromkeys(row["backbone"] for row in rows):
        own = [
            row
            for row in rows
            if row["backbone"] == backbone and row["role"] == RIVAL and row.get(drop)
        ]
        if own and backbone not in blind:
            first = min(own, key=lambda r: r[drop]["value"])
            value = shown(first[drop]["value"], drop)
            leads.append(f"{backbone} {first['explainer']} ({value} %)")
    if not leads:
        return []
    words = f"Least {drop} (it decides nothing, as explainers can be trained for it): "
    return [Line(f"{words}{listed(leads, 4)}.", "leaderboard")]
