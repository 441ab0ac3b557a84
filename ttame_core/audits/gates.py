"""Comparison of an audit with the last one of its name, and checking of its gates."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from math import isfinite
from typing import Any

import duckdb
import pyarrow as pa

from ttame_core import spec
from ttame_core.audits.comparison import compare_audits
from ttame_core.errors import nearest
from ttame_core.lake import AUDIT_TIME, Lake
from ttame_core.lake.query.directions import UNKNOWN, direction, source, stems
from ttame_core.lake.query.units import shown
from ttame_core.lake.records import check_record, read_about, records
from ttame_core.lake.schemas import BACKBONE
from ttame_core.spec import CHANGED_MAPS
from ttame_core.stages.roles import rivals

COMPLETE = "complete"  # gate that every audit has: all that it asks for must have finite numbers
CHANGED = 0.8  # correlation under which a map has changed, where no gate gives another

Row = dict[str, Any]  # a row of lake.schemas.AUDIT_CHANGES
Cell = tuple[str, str, str]  # backbone, explainer, metric


class GatesFailed(Exception):
    """The error for gates that do not hold, after all that the audit asks for is done.

    Attributes:
        words: a sentence for each gate that does not hold.
    """

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__("; ".join(words))
        self.words = list(words)

    def __reduce__(self) -> tuple[type[GatesFailed], tuple[list[str]]]:
        return GatesFailed, (self.words,)


# ---- whether a gate can be checked at all ---------------------------------------------------


def check_names(gate: spec.Gate, audit: spec.AuditSpec) -> None:
    """Check that the audit has the metric, backbone and explainer that a gate names.

    Raises:
        ValueError: the audit has no such metric, backbone or explainer.
    """
    families = [metric.family for metric in audit.evaluation.metrics]
    if gate.metric == CHANGED_MAPS:
        family = "shape"  # changed maps are found by its thumbnails
    else:
        known = direction(gate.metric)
        names = _names(audit.evaluation)
        exact = known.family == "confidence"  # the spec has the levels and fills of its metrics
        if known is UNKNOWN or (exact and "confidence" in families and gate.metric not in names):
            raise ValueError(
                f"the gate {gate} is on a metric that the audit does not have."
                + nearest(gate.metric, names)
            )
        if gate.worse_by is not None and known.lower_is_better is None:
            raise ValueError(f"the gate {gate}: of {gate.metric} neither direction is worse")
        family = source(gate.metric)
        if family == "backbone" and gate.explainer is not None:
            raise ValueError(f"the gate {gate}: {gate.metric} is a backbone's own, no explainer's")
    if family not in ("backbone", "cost") and family not in families:
        raise ValueError(f"the gate {gate} needs the family {family} in `evaluation.metrics`")
    if not any(fnmatchcase(b.name, gate.backbone) for b in audit.backbones):
        raise ValueError(
            f"the gate {gate} is on no backbone of the audit."
            + nearest(gate.backbone, [b.name for b in audit.backbones])
        )
    if not _explainers(gate, audit):
        raise ValueError(
            f"the gate {gate} is on no explainer of the audit that it could check."
            + nearest(gate.explainer or "", [e.name for e in audit.explainers])
        )


def _names(evaluation: spec.Evaluation) -> list[str]:
    """Return full names of metrics for a message's `Did you mean …?`, such as AD@15/blur.

    Only those of the family `confidence` have levels and fills here.
    """
    names = [stem for stem in stems() if "@" not in stem]
    for metric in evaluation.metrics:
        if metric.family == "confidence":
            names += [
                f"{name}@{keep:g}" + (f"/{fill}" if fill != "zero" else "")
                for name in ("AD", "IC", "AG")
                for keep in metric.settings["keep"]
                for fill in metric.settings["fills"]
            ]
    return [*names, CHANGED_MAPS]


def _explainers(gate: spec.Gate, audit: spec.AuditSpec) -> list[str]:
    """Return the names of a gate's explainers; only '-' for a metric of backbones (BACKBONE)."""
    if direction(gate.metric).family == "backbone":
        return [BACKBONE]
    if gate.explainer is None:
        return rivals(audit)
    rivals_alone = gate.metric == CHANGED_MAPS  # records hold only the rivals' maps
    among = rivals(audit) if rivals_alone else [e.name for e in audit.explainers]
    return [e for e in among if fnmatchcase(e, gate.explainer)]


# ---- the last audit -------------------------------------------------------------------------


def predecessors(lake: Lake, audit: spec.AuditSpec, record: str, run: str) -> dict[str, str]:
    """Return the record, name/timestamp, that each backbone is compared with.

    That is the last whole record of the same name and data set before `record` in which the
    backbone did not fail. Records of the same run are left out, so that a run that is tried again
    is not compared with itself.

    Args:
        lake: the workspace.
        audit: the spec.
        record: the new record, name/timestamp.
        run: identity of the run that leaves the new record.

    Raises:
        UserError: such a record is not as it was written.
    """
    left = {b.name for b in audit.backbones}
    latest: dict[str, str] = {}
    for folder in reversed(records(lake, audit.name)):
        earlier = folder.removeprefix("audits/")
        if not left or earlier >= record:
            continue
        about = read_about(lake, folder)
        if about.dataset not in (None, audit.dataset.name) or (run and about.run == run):
            continue
        there = left if about.backbones is None else left & set(about.backbones)
        there = there - about.failures.keys()
        if there:
            check_record(lake, folder)
        latest |= dict.fromkeys(there, earlier)
        left -= there
    return latest


# ---- what changed ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Audited:
    """The results of an audit, and their difference from the last audit.

    Attributes:
        audit: the spec.
        values: values of the leaderboard.
        pairs: rows of the comparison with the last audit; `earlier` is that audit.
        changed: for each correlation, backbone and explainer: the percentage of images whose map
            changed, the number of images that both audits have, and the last audit.
        absent: backbone and explainer where the explainer does not apply.
        failed: names of the backbones that failed.
    """

    audit: spec.AuditSpec
    values: Mapping[Cell, float]
    pairs: Mapping[Cell, Mapping[str, Any]]
    changed: Mapping[tuple[float, str, str], tuple[float, int, str]]
    absent: Collection[tuple[str, str]]
    failed: Collection[str]


@dataclass(frozen=True)
class NewRecord:
    """A record that is compared with the last one of its name.

    Attributes:
        name: the record, name/timestamp.
        run: identity of the run that leaves the record.
        board: leaderboard of the record.
        failed: names of the backbones that failed.
        absent: backbone and explainer where the explainer does not apply.
    """

    name: str
    run: str
    board: pa.Table
    failed: Collection[str]
    absent: Collection[tuple[str, str]]


@dataclass(frozen=True)
class Changes:
    """The changes since earlier records of an audit.

    Attributes:
        rows: rows of AUDIT_CHANGES.
        since: for each backbone with values of the same images in an earlier record, that record.
    """

    rows: list[Row]
    since: Mapping[str, str]


def find_changes(
    lake: Lake, db: duckdb.DuckDBPyConnection, audit: spec.AuditSpec, new: NewRecord
) -> Changes:
    """Compare a new record with the last one, and check the gates.

    Args:
        lake: the workspace.
        db: connection that sees the single values of the new record.
        audit: the spec.
        new: the new record.
    """
    earlier = predecessors(lake, audit, new.name, new.run)
    pairs = {
        (row["backbone"], row["explainer"], row["metric"]): {**row, "earlier": other}
        for other in sorted(set(earlier.values()))
        for row in compare_audits(db, new.name, other, audit.dataset.name)
        if earlier.get(row["backbone"]) == other
    }
    rows = new.board.to_pylist()
    values = {(r["backbone"], r["explainer"], r["metric"]): r["value"] for r in rows}
    changed = _changed_maps(db, audit, new.name, earlier)
    since = {backbone: pair["earlier"] for (backbone, *_), pair in pairs.items()}
    return Changes(rows_of(Audited(audit, values, pairs, changed, new.absent, new.failed)), since)


def _changed_maps(
    db: duckdb.DuckDBPyConnection,
    audit: spec.AuditSpec,
    record: str,
    earlier: Mapping[str, str],
) -> dict[tuple[float, str, str], tuple[float, int, str]]:
    changed = {}
    thresholds = sorted(
        {CHANGED, *(g.correlation for g in audit.gates if g.correlation is not None)}
    )
    for other in sorted(set(earlier.values())):
        rows = db.execute(
            "SELECT threshold, backbone, explainer, "
            "avg(CASE WHEN correlation < threshold THEN 1e2 ELSE 0e0 END), count(*) "
            "FROM map_changes(?, ?), (SELECT unnest(?) AS threshold) GROUP BY ALL",
            [record, other, thresholds],
        ).fetchall()
        for threshold, backbone, explainer, share, images in rows:
            if earlier.get(backbone) == other:
                changed[threshold, backbone, explainer] = share, images, other
    return changed


def rows_of(audited: Audited) -> list[Row]:
    """Return a row for each check of a gate, then one for each change beyond chance."""
    rows = [row for gate in audited.audit.gates for row in _checks(gate, audited)]
    return [*rows, *_beyond_chance(audited)]


def _checks(gate: spec.Gate, audited: Audited) -> Iterator[Row]:
    explainers = _explainers(gate, audited.audit)
    for backbone in sorted(b.name for b in audited.audit.backbones):
        if backbone in audited.failed or not fnmatchcase(backbone, gate.backbone):
            continue
        chosen = [e for e in explainers if (backbone, e) not in audited.absent]
        there = [e for e in chosen if (backbone, e, gate.metric) in audited.values]
        if gate.metric == CHANGED_MAPS:
            yield from (_check_maps(gate, backbone, e, audited) for e in chosen)
        elif there:
            yield from (_check(gate, (backbone, e, gate.metric), audited) for e in there)
        elif chosen:  # a gate that cannot be checked fails
            explainer = chosen[0] if len(chosen) == 1 else gate.explainer or "*"
            cell = (backbone, explainer, gate.metric)
            yield _row(gate, cell, failed=True, words=f"{_subject(cell)} has no value to check.")


def _check(gate: spec.Gate, cell: Cell, audited: Audited) -> Row:
    metric = cell[2]
    value = audited.values[cell]
    pair = audited.pairs.get(cell)
    if gate.worse_by is None:
        wrong, words = _against_bound(gate, value, metric)
        numbers = (_paired(pair) if pair else {}) | {"value": value}
        return _row(gate, cell, **numbers, failed=wrong, words=f"{_subject(cell)} {words}")
    if pair is None:
        words = f"{_subject(cell)} has nothing to be compared with yet."
        return _row(gate, cell, value=value, words=words)
    worse = _worse(pair, metric)
    beyond = pair["ci_low"] > 0 or pair["ci_high"] < 0
    failed = worse > gate.worse_by and beyond
    allowed = f"at most {gate.worse_by:g} is allowed"
    if worse > gate.worse_by and not beyond:
        allowed += ", and this may be chance"
    return _row(
        gate, cell, **_paired(pair), failed=failed, words=f"{_moved(cell, pair)}; {allowed}."
    )


def _against_bound(gate: spec.Gate, value: float, metric: str) -> tuple[bool, str]:
    unit = _unit(metric)
    if gate.at_least is not None:
        asked = f"at least {gate.at_least:g} is asked for"
        return value < gate.at_least, f"is {shown(value, metric)}{unit}; {asked}."
    assert gate.at_most is not None
    return value > gate.at_most, (
        f"is {shown(value, metric)}{unit}; at most {gate.at_most:g} is allowed."
    )


def _check_maps(gate: spec.Gate, backbone: str, explainer: str, audited: Audited) -> Row:
    assert gate.correlation is not None
    assert gate.at_most is not None
    cell = (backbone, explainer, CHANGED_MAPS)
    compared = audited.changed.get((gate.correlation, backbone, explainer))
    if compared is None:
        words = f"The maps of {explainer} on {backbone} have nothing to be compared with yet."
        return _row(gate, cell, words=words)
    share = compared[0]
    words = f"{_other_maps(cell, gate.correlation, *compared)}; at most {gate.at_most:g} % may."
    return _row(gate, cell, value=share, failed=share > gate.at_most, words=words)


def _beyond_chance(audited: Audited) -> Iterator[Row]:
    """Yield a row for each change beyond chance of the rivals' principal metrics and maps.

    Measured times are left out, because they vary from run to run.
    """
    told_of = {*rivals(audited.audit), BACKBONE}
    for cell, pair in audited.pairs.items():
        backbone, explainer, metric = cell
        known = direction(metric)
        told = known.family == "backbone" or (known.principal and known.family != "cost")
        told = told and explainer in told_of and backbone not in audited.failed
        if told and pair["better"]:
            yield _row(None, cell, **_paired(pair), words=f"{_moved(cell, pair)}.")
    for (correlation, backbone, explainer), compared in sorted(audited.changed.items()):
        if correlation == CHANGED and compared[0] > 0 and backbone not in audited.failed:
            cell = (backbone, explainer, CHANGED_MAPS)
            words = f"{_other_maps(cell, correlation, *compared)}."
            yield _row(None, cell, value=compared[0], words=words)


def not_numbers(
    board: pa.Table, asked: Mapping[tuple[str, str], int], absent: Collection[tuple[str, str]]
) -> Iterator[Row]:
    """Yield a failed row for each value and maps that an audit asks for and that are not finite.

    Args:
        board: the leaderboard.
        asked: how many maps are not finite, by backbone and explainer of all maps that the audit
            asks for.
        absent: backbone and explainer where the explainer does not apply.
    """
    rows = board.to_pylist()
    there = {(row["backbone"], row["explainer"]) for row in rows}
    for backbone, explainer in sorted({*asked} - there - {*absent}):
        words = f"{explainer} on {backbone} has no map of any image: its maps are not finite."
        yield _row(COMPLETE, (backbone, explainer, ""), failed=True, words=words)
    for backbone, explainer in sorted(pair for pair in there & {*asked} if asked[pair]):
        lacks = f"{explainer} on {backbone} lacks {asked[backbone, explainer]} maps"
        words = f"{lacks}, which are not finite: its numbers are of other images alone."
        yield _row(COMPLETE, (backbone, explainer, ""), failed=True, words=words)
    for row in rows:
        if row["value"] is None or not isfinite(row["value"]):
            cell = row["backbone"], row["explainer"], row["metric"]
            yield _row(COMPLETE, cell, failed=True, words=f"{_subject(cell)} is no finite number.")


# ---- rows and sentences ---------------------------------------------------------------------


def _row(
    gate: spec.Gate | str | None, cell: Cell, words: str, failed: bool = False, **numbers: Any
) -> Row:
    backbone, explainer, metric = cell
    names = {"gate": str(gate) if gate else "", "backbone": backbone, "explainer": explainer}
    empty = dict.fromkeys(("previous", "value", "change", "ci_low", "ci_high"))
    return {**names, "metric": metric, **empty, **numbers, "failed": failed, "words": words}


def _paired(pair: Mapping[str, Any]) -> Row:
    """Return the columns of a change that compare two audits, over the images that both have.

    They are both means, their difference, and its interval.
    """
    names = {"previous": "b", "value": "a", "change": "difference"}
    return {k: pair[v] for k, v in names.items()} | {k: pair[k] for k in ("ci_low", "ci_high")}


def _worse(pair: Mapping[str, Any], metric: str) -> float:
    """Return by how much a metric is worse than last time; negative where it is better."""
    return pair["difference"] if direction(metric).lower_is_better else -pair["difference"]


def _subject(cell: Cell) -> str:
    backbone, explainer, metric = cell
    return (
        f"{metric} of {backbone}"
        if explainer == BACKBONE
        else f"{metric} of {explainer} on {backbone}"
    )


def _moved(cell: Cell, pair: Mapping[str, Any]) -> str:
    metric = cell[2]
    a, b, low, high = (shown(pair[c], metric) for c in ("a", "b", "ci_low", "ci_high"))
    over = f"{pair['pairs']} images"
    if pair["difference"] == 0:
        return f"{_subject(cell)} is {a}, as {_when(pair['earlier'])} ({over})"
    worse = _worse(pair, metric)
    verdict = "worse" if worse > 0 else "better"
    unit = {"%": " points"}.get(direction(metric).unit, _unit(metric))
    return (
        f"{_subject(cell)} is {shown(abs(worse), metric)}{unit} {verdict} than "
        f"{_when(pair['earlier'])}: {b} then, {a} now (change {low} to {high}, {over})"
    )


def _other_maps(cell: Cell, correlation: float, share: float, images: int, earlier: str) -> str:
    return (
        f"{share:.1f} % of the maps of {cell[1]} on {cell[0]} correlate by less than "
        f"{correlation:g} with those {_when(earlier)} ({images} images)"
    )


def _unit(metric: str) -> str:
    unit = direction(metric).unit
    return f" {unit}" if unit else ""


def _when(record: str) -> str:
    time = datetime.strptime(record.rsplit("/", 1)[-1], AUDIT_TIME)
    return f"on {time:%Y-%m-%d at %H:%M}"
