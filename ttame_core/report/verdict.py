"""The sentences at the top of a report: what was audited, how to read it, what needs a look."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ttame_core import spec
from ttame_core.data.index import left_out
from ttame_core.lake import AUDIT_TIME
from ttame_core.lake.query.units import shown
from ttame_core.lake.schemas import RIVAL
from ttame_core.report.findings import Findings
from ttame_core.report.tables import Best, Rows, wins

Tone = Literal["good", "care", "bad", "plain"]


@dataclass(frozen=True)
class Line:
    """A sentence, and the id of the part of the page that it is about."""

    words: str
    link: str = ""


@dataclass(frozen=True)
class Answer:
    """An answer to a question about an audit.

    Attributes:
        question: the question.
        tone: colour of the answer, which only repeats the words.
        short: the answer in a few words.
        lines: sentences that explain the answer.
    """

    question: str
    tone: Tone
    short: str
    lines: list[Line] = field(default_factory=list)


def audited(
    audit: spec.AuditSpec, findings: Findings, rows: Rows, rejected: Mapping[str, int]
) -> str:
    """Return one sentence on what was audited, and one on what was left out, if anything was.

    Args:
        audit: the spec.
        findings: findings, which tell the images and classes.
        rows: rows of the leaderboard.
        rejected: number of the data set's inputs that were rejected, by kind.
    """
    backbones = sorted({row["backbone"] for row in rows})
    explainers = {row["explainer"]: row["role"] for row in rows}
    rivals = [name for name, role in explainers.items() if role == RIVAL]
    ends = [name for name, role in explainers.items() if role != RIVAL]
    beside = f", measured against {_list(ends)}" if ends else ""
    classes = f" in {_count(findings.classes, 'class', 'classes')}" if findings.classes else ""
    sentence = (
        f"{_count(len(backbones), 'classifier')} ({_list(backbones, 8)}) on "
        f"{_count(findings.images, 'image')}{classes} of {audit.dataset.name} "
        f"({audit.maps.split}), explained by {_list(rivals, 8) or 'no explainer'}{beside}."
    )
    return f"{sentence} {left_out(rejected)}".rstrip()


def trust(
    rows: Rows,
    metric: str | None,
    minimum: float,
    failures: Mapping[str, str],
    changes: Sequence[Mapping[str, Any]],
) -> Answer:
    """Answer whether the figures can be trusted, from gates, failures and masked images.

    Args:
        rows: rows of `tables.wide`.
        metric: the average drop that stands for faithfulness; None where there is none.
        minimum: points of discrimination under which AD and IC rank nothing.
        failures: the error of each backbone that failed, by its name.
        changes: rows of AUDIT_CHANGES.
    """
    lines = []
    gates = [row for row in changes if row["gate"]]
    broken = [row for row in gates if row["failed"]]
    if gates:
        held = len(gates) - len(broken)
        lines.append(Line(f"{held} of {len(gates)} checks of the gates hold.", "changes"))
    lines += [
        Line(f"{name} failed and is not in the tables: {_cut(failures[name])}") for name in failures
    ]
    discriminations = {row["backbone"]: row["discrimination"] for row in rows}
    blind = [n for n, d in discriminations.items() if d and d["value"] < minimum]
    unknown = [n for n, d in discriminations.items() if d is None]
    able = [n for n in discriminations if n not in blind and n not in unknown]
    if able:
        points = [discriminations[n]["value"] for n in able]
        span = f"{min(points):.0f}" if len(able) == 1 else f"{min(points):.0f} to {max(points):.0f}"
        lines.append(
            Line(
                f"{_list(able, 6)} can read masked images: random maps and the annotated objects "
                f"are {span} points of AD@15 apart (at least {minimum:g} are asked for)."
            )
        )
    if blind:
        lines.append(Line(f"AD and IC rank nothing on {_list(blind, 6)}.", "notes"))
    if unknown:
        lines.append(
            Line(f"Whether AD and IC say anything about {_list(unknown, 6)} is not known.", "notes")
        )
    if (worst := _no_better_than_random(rows, metric)) and metric:
        lines.append(Line(f"No explainer is clearly better than random maps on {_list(worst, 6)}."))
    if broken or (failures and not rows):
        return Answer(_TRUST, "bad", f"No: {_count(len(broken), 'check')} failed", lines)
    if failures:
        names = _list(list(failures), 3)
        return Answer(_TRUST, "bad", f"Not on {names}: failed", lines)
    if blind or worst:
        doubtful = sorted({*blind, *worst})
        if len(doubtful) == len(discriminations):
            return Answer(_TRUST, "bad", "No", lines)
        return Answer(_TRUST, "care", f"Not on {_list(doubtful, 3)}", lines)
    if unknown:
        return Answer(_TRUST, "care", "Not known" if not able else "In part", lines)
    return Answer(_TRUST, "good", "Yes, as far as was measured", lines)


_TRUST = "Can the explanations be trusted?"


def _no_better_than_random(rows: Rows, metric: str | None) -> list[str]:
    """Return the backbones on which every rival's interval meets that of random maps."""
    unclear: list[str] = []
    if metric is None:
        return unclear
    for backbone in {row["backbone"] for row in rows}:
        own = [r for r in rows if r["backbone"] == backbone and r.get(metric)]
        random = next((r[metric] for r in own if r["method"] == "random"), None)
        rivals = [r[metric] for r in own if r["role"] == RIVAL]
        if random and rivals and min(r["ci_high"] for r in rivals) >= random["ci_low"]:
            unclear.append(backbone)
    return sorted(unclear)


def best_where(
    rows: Rows,
    metric: str | None,
    winners: Mapping[str, Mapping[str, Best]],
    findings: Findings,
    blind: Collection[str],
) -> Answer:
    """Answer which explainer keeps most confidence on which backbone, and whether it is certain.

    Args:
        rows: rows of `tables.wide`.
        metric: the average drop that stands for faithfulness; None where there is none.
        winners: best rivals by metric and backbone.
        findings: findings about the audit.
        blind: names of the backbones on which AD and IC rank nothing.
    """
    question = "Which explainer is best?"
    rivals = {row["explainer"] for row in rows if row["role"] == RIVAL}
    if len(rivals) < 2:
        alone = f"{next(iter(rivals))} alone was measured" if rivals else "None was measured"
        return Answer(question, "plain", alone)
    firsts: dict[str, list[str]] = {}
    sure: dict[str, bool] = {}
    lines: list[Line] = []
    if metric:
        for row in rows:
            if winner := wins(row, metric, winners.get(metric, {})):
                firsts.setdefault(row["backbone"], []).append(row["explainer"])
                sure[row["backbone"]] = winner.apart
        lines = [_best_on(b, names, sure[b], rows, metric) for b, names in firsts.items()]
    listed = lines[:6]
    if len(lines) > len(listed):
        listed.append(Line(f"{len(lines) - len(listed)} more backbones: see the table.", "best"))
    if blind:
        listed.append(
            Line(f"Not known on {_list(sorted(blind), 6)}: AD and IC rank nothing there.")
        )
    ranked = [r for r in findings.series["ranks"] if r["explainer"] in rivals]
    if ranked:
        now = max(r["timestamp"] for r in ranked)
        top = [r for r in ranked if r["timestamp"] == now][:3]
        words = ", ".join(f"{r['explainer']} {r['value']:.1f}" for r in top)
        listed.append(Line(f"Mean rank over all metrics but the cost: {words}.", "leaderboard"))
    if not firsts:
        first = findings.order[0] if findings.order else ""
        return Answer(question, "plain", f"{first}, by mean rank" if first else "Not known", listed)
    counts: dict[str, int] = {}
    for names in firsts.values():
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    name = max(counts, key=lambda n: counts[n])
    certain = sum(sure[b] for b, names in firsts.items() if names == [name])
    if counts[name] == len(firsts):
        where = "everywhere" if len(firsts) > 1 else f"on {next(iter(firsts))}"
        if certain == len(firsts):
            return Answer(question, "good", f"{name}, {where}, beyond chance", listed)
        return Answer(question, "plain", f"{name}, {where}; certain on {certain}", listed)
    return Answer(
        question, "plain", f"It depends: {name} on {counts[name]} of {len(firsts)}", listed
    )


def _best_on(backbone: str, names: Sequence[str], sure: bool, rows: Rows, metric: str) -> Line:
    """Say who is best on a backbone, and who is next; `names` are those with the best value."""
    own = [r for r in rows if r["backbone"] == backbone and r[metric] and r["role"] == RIVAL]
    own.sort(key=lambda r: r[metric]["value"])
    value = f"{shown(own[0][metric]['value'], metric)} %"
    if own[0][metric]["images"] < max(r[metric]["images"] for r in own):
        value += f" on {own[0][metric]['images']} images"
    if len(names) > 1:
        return Line(f"{backbone}: {_list(names, 4)} alike, {metric} {value}.")
    second = next(r for r in own if r["explainer"] != names[0])
    certain = "beyond chance" if sure else "this may be chance"
    return Line(
        f"{backbone}: {names[0]}, {metric} {value}; next {second['explainer']}, "
        f"{shown(second[metric]['value'], metric)} % ({certain})."
    )


def attention(
    findings: Findings, refusals: Sequence[str], changes: Sequence[Mapping[str, Any]]
) -> Answer:
    """Answer what needs a look, with the parts of the page that show it."""
    lines = []
    outside = _totals(findings.of("outside"), "images")
    wrong = _totals(findings.of("wrong"), "images")
    sure = _totals(findings.of("wrong"), "sure")
    failed = sum(bool(row["failed"]) for row in changes)
    if failed:
        lines.append(Line(f"{_count(failed, 'check')} of the gates failed.", "changes"))
    if outside:
        lines.append(
            Line(
                f"On {_count(outside, 'prediction')} explainers look outside every box: "
                "possible shortcuts.",
                "shortcuts",
            )
        )
    if wrong:
        confident = f", {sure} of them with at least 90 % probability" if sure else ""
        lines.append(Line(f"{_count(wrong, 'prediction')} wrong{confident}.", "wrong"))
    if disputed := findings.of("disputed"):
        least = min(row["value"] for row in disputed)
        if least < 0.3:
            lines.append(
                Line(
                    "There are images on which explainers show different things "
                    f"(correlation {least:.2f}).".replace("-", "−"),
                    "gallery",
                )
            )
    if refusals:
        lines.append(
            Line(f"{_count(len(refusals), 'explainer')} did not apply to a classifier.", "notes")
        )
    if not lines:
        return Answer("What needs a look?", "good", "Nothing stands out")
    short = _count(outside, "possible shortcut") if outside else ""
    if failed:
        short = f"{_count(failed, 'failed check')}"
    if not short:
        short = _count(wrong, "wrong prediction") if wrong else "Little"
    return Answer("What needs a look?", "bad" if failed else "care", short, lines)


def changed(changes: Sequence[Mapping[str, Any]] | None, previous: str | None) -> Answer:
    """Answer what changed since the last audit of the name, whose time is `previous`."""
    question = "What changed?"
    if previous is None and not changes:
        return Answer(question, "plain", "This is the first audit of this name")
    since = [Line(f"Since the audit of {_time(previous)}.")] if previous else []
    if changes is None:
        return Answer(question, "plain", "Not compared", since)
    moved = [row for row in changes if not row["gate"]]
    failed = [row for row in changes if row["gate"] and row["failed"]]
    short = _count(len(moved), "metric") + " beyond chance" if moved else "Nothing beyond chance"
    first = [*since, *(Line(row["words"], "changes") for row in [*failed, *moved][:4])]
    return Answer(question, "bad" if failed else "care" if moved else "plain", short, first)


def _totals(rows: Iterable[Mapping[str, Any]], column: str) -> int:
    """Add up a count over backbones; all rows of a backbone have the same count."""
    return sum({row["backbone"]: row[column] for row in rows}.values())


def _count(number: int, noun: str, several: str = "") -> str:
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def _list(names: Sequence[str], most: int = 4) -> str:
    """Write names as `a, b and c`; beyond `most` names, the number of the others."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _time(timestamp: str) -> str:
    """Write a record's time, such as 20260131T101500Z, as 2026-01-31 10:15."""
    return datetime.strptime(timestamp, AUDIT_TIME).strftime("%Y-%m-%d %H:%M")


def _cut(text: str) -> str:
    return text if len(text) <= 160 else text[:159] + "…"
