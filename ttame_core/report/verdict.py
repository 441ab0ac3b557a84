"""The sentences at the top of a report: what was audited, how to read it, what needs a look."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ttame_core import spec
from ttame_core.audits.record import Recorded
from ttame_core.data.index import left_out
from ttame_core.lake import AUDIT_TIME
from ttame_core.lake.query.directions import direction
from ttame_core.lake.schemas import CONTROL, RIVAL
from ttame_core.perturbation.whole import CHANGES
from ttame_core.report.answers import Answer, Line, Tone, counted, listed
from ttame_core.report.contest import best_of, contests
from ttame_core.report.evidence import Evidence
from ttame_core.report.findings import (
    Findings,
    how_alike,
    what_becomes,
    what_change_does,
    what_is_alike,
    what_is_confused,
)
from ttame_core.report.tables import Best, Rows, headline, refusals, wide
from ttame_core.report.trust import Judged, judged, trust

SHOWN = 4  # changes and failed checks in the answer, at most
ENDS = {  # what the maps of the methods are that others are measured by
    "oracle": "the annotated objects themselves",
    "random": "noise",
    "center": "the middle of the image",
    "edges": "the edges in the image",
}


@dataclass(frozen=True)
class Verdict:
    """The words at the top of a report.

    Attributes:
        audited: what was audited.
        answers: answers to the four questions.
        reasons: reasons of the first answer, for each backbone.
        blind: names of the backbones on which AD and IC rank nothing.
    """

    audited: str
    answers: Sequence[Answer]
    reasons: Sequence[Judged]
    blind: Collection[str]


def judge(
    recorded: Recorded,
    findings: Findings,
    winners: Mapping[str, Mapping[str, Best]],
    evidence: Sequence[Evidence],
) -> Verdict:
    """Return the words at the top of a record's report.

    Args:
        recorded: content of the record.
        findings: findings about the audit, beside its leaderboard.
        winners: best rivals by metric and backbone (`findings.certain_winners`).
        evidence: evidence about each backbone (`evidence.weigh`).
    """
    metrics, rows = wide(recorded.board)
    drop = f"AD@{findings.keep:g}" if findings.keep is not None else None
    blind = {
        own.backbone
        for own in evidence
        if own.discrimination and own.discrimination.value < own.minimum
    }
    whole = [own.backbone for own in evidence if not own.failure]
    looked = any(direction(metric).family in ("localization", "marked") for metric in metrics)
    changes = recorded.changes
    return Verdict(
        audited(recorded.audit, findings, rows, recorded.rejected),
        [
            trust(evidence),
            attention(findings, evidence, refusals(recorded.refusals), changes, looked=looked),
            best_of(rows, contests(rows, headline(metrics), winners), drop, blind),
            changed(changes, recorded.before, recorded.since, whole),
        ],
        judged(evidence),
        blind,
    )


def audited(
    audit: spec.AuditSpec, findings: Findings, rows: Rows, rejected: Mapping[str, int]
) -> str:
    """Return sentences on what was audited, on its explainers, and on what was left out, if any.

    Args:
        audit: the spec.
        findings: findings, which tell the images and classes.
        rows: rows of the leaderboard.
        rejected: number of the data set's inputs that were rejected, by kind.
    """
    backbones = sorted({row["backbone"] for row in rows})
    explainers = {row["explainer"]: row for row in rows}
    rivals = [name for name, row in explainers.items() if row["role"] == RIVAL]
    ends = [_described(row) for row in explainers.values() if row["role"] != RIVAL]
    where = f"{audit.dataset.name} ({audit.maps.split})"
    if not backbones:
        return f"No classifier's images of {where} were explained. {left_out(rejected)}".rstrip()
    made = (
        f"{counted(len(rivals), 'explainer')} ({listed(rivals, 8)})" if rivals else "no explainer"
    )
    beside = f", measured against {listed(ends)}" if ends else ""
    classes = f" in {counted(findings.classes, 'class', 'classes')}" if findings.classes else ""
    sentence = (
        f"{counted(len(backbones), 'classifier')} ({listed(backbones, 8)}) on "
        f"{counted(findings.images, 'image')}{classes} of {where}. "
        f"Maps of where each decision came from, by {made}{beside}."
    )
    return f"{sentence} {left_out(rejected)}".rstrip()


def _described(row: Mapping[str, Any]) -> str:
    """Name an explainer that does not compete, and say what its maps are."""
    what = "trained on permuted labels" if row["role"] == CONTROL else ENDS.get(row["method"])
    return f"{row['explainer']} ({what})" if what else row["explainer"]


def attention(
    findings: Findings,
    evidence: Sequence[Evidence],
    refusals: Sequence[str],
    changes: Sequence[Mapping[str, Any]],
    *,
    looked: bool,
) -> Answer:
    """Answer what needs a look, with the parts of the page that show it.

    Args:
        findings: findings about the audit.
        evidence: evidence about each backbone.
        refusals: a sentence for each explainer that does not apply to a backbone.
        changes: rows of AUDIT_CHANGES.
        looked: whether shortcuts were looked for, with annotated objects or without.
    """
    question = "What needs a look?"
    failed = sum(bool(row["failed"]) for row in changes)
    crashed = [own.backbone for own in evidence if own.failure]
    explained = [own for own in evidence if own.images]
    outside = _of_each(findings.of("outside"), "images")
    missed = _of_each(findings.of("outside"), "wrong")
    passed = {name: images - missed[name] for name, images in outside.items()}
    wrong = _of_each(findings.of("wrong"), "images")
    sure = _of_each(findings.of("wrong"), "sure")
    labelled = {own.backbone: own.labelled for own in explained}
    lines = []
    if crashed:
        lines.append(Line(f"{listed(crashed)} failed.", "notes"))
    if failed:
        lines.append(Line(f"{counted(failed, 'check')} of the gates failed.", "changes"))
    alike = {(row["backbone"], row["class"]): row for row in findings.of("alike")}
    for (backbone, name), row in alike.items():
        what = what_is_alike(row)
        much = how_alike(row)
        words = f"{backbone}: the maps of {name} mark {what} ({much}): the object, or a shortcut."
        pasted, aspect = findings.series["pasted"], row["aspect"]
        becomes = what_becomes(pasted, backbone, name, aspect, brief=True)
        lines.append(Line(f"{words} {becomes}".rstrip(), "shortcuts"))
    turned = findings.series["changed"]
    for (backbone, _), rows in _by_class(turned).items():
        less = [CHANGES[row["change"]].words for row in rows[1:]]
        also = f" Also, but less: {listed(less)}." if less else ""
        lines.append(Line(f"{backbone}: {what_change_does(rows[0])}{also}", "shortcuts"))
    if outside:
        on = counted(sum(outside.values()), "prediction")
        parts = listed([f"{name} {number}" for name, number in outside.items()])
        each = f" ({parts})" if len(explained) > 1 else ""
        number = sum(missed.values())
        all_of = number == sum(outside.values())
        but = f", {'all' if all_of else number} of them wrong," if number else ""
        words = (
            f"On {on}{each}{but} most maps peak off every annotated object: the classifier may "
            "look at something else."
        )
        lines.append(Line(words, "shortcuts"))
    if wrong:
        parts = listed([f"{name} {number} of {labelled[name]}" for name, number in wrong.items()])
        confident = listed([f"{name} {number}" for name, number in sure.items() if number])
        also = f"; with at least 90 % probability: {confident}" if confident else ""
        lines.append(Line(f"Wrong predictions: {parts}{also}.", "wrong"))
    confused = [row for row in findings.series["confused"] if row["sign"]]
    for name in sorted({row["backbone"] for row in confused}):
        first, *others = (row for row in confused if row["backbone"] == name)
        more = f" Below: {counted(len(others), 'more such pair')}." if others else ""
        lines.append(Line(f"{name}: {what_is_confused(first)}{more}", "wrong"))
    least = min((row["value"] for row in findings.of("disputed")), default=1.0)
    if least < 0.3:
        words = "There are images on which explainers show different things (correlation "
        lines.append(Line(words + f"{least:.2f}).".replace("-", "−"), "gallery"))
    if refusals:
        pairs = counted(len(refusals), "pair")
        words = f"{pairs} of explainer and classifier do not go together, so there are no maps."
        lines.append(Line(words, "notes"))
    unseen = []
    if explained and not looked:
        words = (
            "Shortcuts were not looked for: that takes annotated objects, or marked among the "
            "metrics."
        )
        unseen.append(Line(words, quiet=True))
    if explained and not any(own.labelled for own in explained):
        words = "Which predictions are wrong is not known: no image has a label."
        unseen.append(Line(words, quiet=True))
    if failed:
        return Answer(question, "bad", counted(failed, "failed check"), [*lines, *unseen])
    if crashed:
        short = counted(len(crashed), "failed classifier")
        return Answer(question, "bad", short, [*lines, *unseen])
    if not explained:
        return Answer(question, "bad", "No image was explained", lines)
    if suspected := findings.suspected:
        names = [*dict.fromkeys(name for _, name in suspected)]
        short = f"{'Classes' if len(names) > 1 else 'Class'} {listed(names, 2)}: a shortcut?"
        return Answer(question, "care", short, [*lines, *unseen])
    if outside or wrong:
        shortcuts = {name: number for name, number in passed.items() if number}
        what, found = ("possible shortcut", shortcuts) if shortcuts else ("wrong prediction", wrong)
        of = f" of {counted(len(found), 'classifier')}" if len(explained) > 1 else ""
        short = f"{counted(sum(found.values()), what)}{of}"
        return Answer(question, "care", short, [*lines, *unseen])
    if lines:
        return Answer(question, "care", "Little", [*lines, *unseen])
    if unseen:
        return Answer(question, "plain", "Nothing, as far as could be looked", unseen)
    return Answer(question, "good", "Nothing stands out")


def changed(
    changes: Sequence[Mapping[str, Any]],
    before: str | None,
    since: Mapping[str, str],
    whole: Sequence[str],
) -> Answer:
    """Answer what changed since earlier audits of the name.

    Args:
        changes: rows of AUDIT_CHANGES.
        before: the last record of the name, name/timestamp; None for the first audit.
        since: for each backbone that is compared with an earlier record, that record.
        whole: names of the backbones that did not fail.
    """
    question = "What changed?"
    failed = [Line(row["words"], "changes") for row in changes if row["gate"] and row["failed"]]
    gates = f"; {counted(len(failed), 'check')} of the gates failed" if failed else ""
    if before is None:
        short = f"This is the first audit of this name{gates}"
        return Answer(question, "bad" if failed else "plain", short, _some(failed))
    compared = [name for name in whole if name in since]
    new = [name for name in whole if name not in since]
    if not compared:
        words = (
            f"The last audit of this name, of {_time(before)}, and those before it have no values "
            "of the same backbones and images."
            if whole
            else f"Every classifier failed; the last audit of this name is of {_time(before)}."
        )
        short = f"Nothing to compare with{gates}" if whole else "Not known"
        tone: Tone = "bad" if failed else "plain"
        return Answer(question, tone, short, [Line(words), *_some(failed)])
    lines = []
    for record in sorted({since[name] for name in compared}, reverse=True):
        names = [name for name in compared if since[name] == record]
        lines.append(Line(f"{listed(names, 3)}: since the audit of {_time(record)}."))
    if new:
        lines.append(Line(f"{listed(new, 3)}: nothing earlier to compare with."))
    moved = [row for row in changes if not row["gate"]]
    sentences = _some([*failed, *(Line(row["words"], "changes") for row in moved)])
    short = counted(len(moved), "change") + " beyond chance" if moved else "Nothing beyond chance"
    tone = "bad" if failed else "care" if moved else "plain"
    return Answer(question, tone, short + gates, [*lines, *sentences])


def _some(lines: Sequence[Line]) -> list[Line]:
    """Return the first few lines, and one that counts the others."""
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([Line(f"And {more} more.", "changes")] if more > 0 else [])]


def _by_class(rows: Rows) -> dict[tuple[str, str], Rows]:
    """Group rows by backbone and class, in their order."""
    grouped: dict[tuple[str, str], Rows] = {}
    for row in rows:
        grouped.setdefault((row["backbone"], row["class"]), []).append(row)
    return grouped


def _of_each(rows: Iterable[Mapping[str, Any]], column: str) -> dict[str, int]:
    """Return a count of each backbone, by name; all rows of a backbone have the same."""
    return dict(sorted({row["backbone"]: row[column] for row in rows}.items()))


def _time(record: str) -> str:
    """Write the time of a record such as birds/20260131T101500Z as 2026-01-31 10:15."""
    return datetime.strptime(record.rpartition("/")[2], AUDIT_TIME).strftime("%Y-%m-%d %H:%M")
