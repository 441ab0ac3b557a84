"""What a report is made of: answers of SQL over the lake, every one bounded in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import duckdb
import pyarrow as pa

from ttame_core import spec
from ttame_core.audits.recorded import FIRST, RECORDED, SPLIT
from ttame_core.audits.statistics import SIGNIFICANT, bootstrap_weights, holm, paired
from ttame_core.lake.query.connection import answer
from ttame_core.lake.query.directions import direction
from ttame_core.lake.query.units import shown
from ttame_core.lake.query.variables import literal, set_variables
from ttame_core.lake.schemas import RIVAL
from ttame_core.report.tables import Best, wide
from ttame_core.stages.roles import rivals

Rows = list[dict[str, Any]]

KEPT = 15.0  # percent of the pixels, in the masked images that are shown, where that was measured
SERIES = ("removal", "steps", "sizes", "classes", "training", "ranks")
EXHIBITS = ("gallery", "disputed", "outside", "wrong")


@dataclass(frozen=True)
class Findings:
    """Of one audit.

    series: rows of each of SERIES. exhibits: images worth seeing, a row per image and reason (kind,
    backbone, key, place, value, …). scores: of those images' maps, by backbone, key and explainer.
    classes: names by label. order: the rivals, the best mean rank first. leads: by backbone, the
    rival that keeps most confidence. keep: percent of the pixels in masked images; None where there
    are none. images: of the split. sql: each query as `ttame query` takes it.
    """

    series: Mapping[str, Rows]
    exhibits: Rows
    scores: Mapping[tuple[str, str, str], dict[str, Any]]
    classes: Mapping[int, str]
    order: Sequence[str]
    leads: Mapping[str, str]
    keep: float | None
    images: int
    sql: Mapping[str, str]

    def of(self, kind: str) -> Rows:
        """The exhibits of one kind: best, typical, worst, disputed, outside or wrong."""
        return [row for row in self.exhibits if row["kind"] == kind]


def gather(
    db: duckdb.DuckDBPyConnection, audit: spec.AuditSpec, board: pa.Table, now: str
) -> Findings:
    """Return all that a report is made of but the leaderboard.

    Args:
        db: A connection of `connect_audit`. In it `leaderboard` is `board` from now on.
        audit: The audit.
        board: Its leaderboard.
        now: The audit's time, as its folder is called.
    """
    rows = wide(board)[1]
    keep, leads = _leads(board)
    known = {
        "audit": audit.name,
        "now": now,
        "dataset": audit.dataset.name,
        "split": audit.maps.split,
        "backbones": sorted({row["backbone"] for row in rows}),
        "explainers": [e.name for e in audit.explainers],
        "rivals": rivals(audit),
        "leads": leads,
        "keep": keep or KEPT,
    }
    set_variables(db, known)
    db.register("leaderboard", board)  # in the stead of the view: it is worked out once
    series = {name: _rows(db, name) for name in SERIES}
    exhibits = [row for name in EXHIBITS for row in _rows(db, name)]
    pictured = [{"backbone": e["backbone"], "key": e["key"]} for e in exhibits]
    db.register("pictured", pa.Table.from_pylist(pictured, _PICTURED))
    scores = {(r["backbone"], r["key"], r["explainer"]): r for r in _rows(db, "scores")}
    names = db.execute(
        "SELECT label, any_value(class) FROM samples WHERE dataset = ? GROUP BY label",
        [audit.dataset.name],
    ).fetchall()
    ((images,),) = db.execute(
        "SELECT count(DISTINCT key) FROM predictions WHERE dataset = ? "
        "AND list_contains(?, backbone)",
        [audit.dataset.name, known["backbones"]],
    ).fetchall()
    ranked = [row["explainer"] for row in series["ranks"] if row["timestamp"] == now]
    order = [*ranked, *(name for name in rivals(audit) if name not in ranked)]
    sql = {name: _runnable(_sql(name), known) for name in (*SERIES, *EXHIBITS)}
    sql["leaderboard"] = _runnable(_LEADERBOARD, known)
    return Findings(series, exhibits, scores, dict(names), order, leads, keep, images, sql)


_PICTURED = pa.schema([("backbone", pa.string()), ("key", pa.string())])
_LEADERBOARD = """SELECT backbone, explainer, metric, value, ci_low, ci_high, images
FROM leaderboard
WHERE dataset = getvariable('dataset')
AND list_contains(getvariable('backbones'), backbone)
AND list_contains(getvariable('explainers'), explainer)
ORDER BY metric, backbone, value
"""


def _rows(db: duckdb.DuckDBPyConnection, name: str) -> Rows:
    return answer(db, _sql(name)).to_pylist()


def _sql(name: str) -> str:
    return resources.files("ttame_core.report").joinpath(f"sql/{name}.sql").read_text("utf-8")


def _runnable(sql: str, known: Mapping[str, Any]) -> str:
    """A query with its variables filled in: one statement, for whoever wants to ask again."""
    sql = sql.replace("(FROM recorded)", f"(SELECT key {SPLIT}{FIRST}{RECORDED})")
    for name, value in known.items():
        sql = sql.replace(f"getvariable('{name}')", literal(value))
    return sql


def _leads(board: pa.Table) -> tuple[float | None, dict[str, str]]:
    """The kept percentage of masked images, and by backbone the rival that loses least there."""
    drops: dict[float, Rows] = {}
    for row in board.to_pylist():
        name, _, level = row["metric"].partition("@")
        if name == "AD" and "/" not in level and row["role"] == RIVAL:
            drops.setdefault(float(level), []).append(row)
    if not drops:
        return None, {}
    keep = KEPT if KEPT in drops else min(drops)
    ranked = sorted(drops[keep], key=lambda r: (r["value"], r["explainer"]), reverse=True)
    return keep, {row["backbone"]: row["explainer"] for row in ranked}


# ---- which explainer is best, and whether that is certain -----------------------------------


def certain_winners(db: duckdb.DuckDBPyConnection, board: pa.Table) -> dict[str, dict[str, Best]]:
    """Return by metric and backbone the best rival, `apart` where it is so beyond chance.

    It and the runner-up are paired image by image, as `ttame compare` does: Wilcoxon's p, corrected
    for all such contests of the audit (Holm), is under SIGNIFICANT, and the 95 % bootstrap interval
    of the difference is clear of 0.

    Args:
        db: A connection that sees the single values of the audit's record (`own_values`).
        board: The audit's leaderboard.
    """
    winners, contests = _contests(board)
    differences: list[tuple[str, str, dict[str, float]]] = []
    weights = bootstrap_weights(db)
    for backbone, rows in contests.items():
        set_variables(db, {"backbone": backbone})
        db.register("contests", pa.Table.from_pylist(rows))
        pairs = answer(db, _sql("pairs"))
        metrics = pairs["metric"].to_numpy()
        bucket, a, b = (pairs[c].to_numpy() for c in ("bucket", "a", "b"))
        for row in rows:
            own = metrics == row["metric"]
            if own.any():
                difference = paired((a - b)[own], bucket[own], weights)
                differences.append((row["metric"], backbone, difference))
    corrected = holm([difference["p"] for *_, difference in differences]) if differences else []
    for (metric, backbone, difference), p in zip(differences, corrected, strict=True):
        lower = direction(metric).lower_is_better
        clear = difference["ci_high"] < 0 if lower else difference["ci_low"] > 0
        best = winners[metric][backbone]
        winners[metric][backbone] = Best(best.value, bool(clear) and p < SIGNIFICANT)
    return winners


def _contests(board: pa.Table) -> tuple[dict[str, dict[str, Best]], dict[str, Rows]]:
    """Winners by metric and backbone, none certain yet; by backbone, whom each has beaten."""
    winners: dict[str, dict[str, Best]] = {}
    contests: dict[str, Rows] = {}
    contenders: dict[tuple[str, str], Rows] = {}
    for row in board.to_pylist():
        known = direction(row["metric"]).lower_is_better is not None
        if known and row["role"] == RIVAL:
            contenders.setdefault((row["metric"], row["backbone"]), []).append(row)
    for (metric, backbone), rows in contenders.items():
        if len(rows) < 2:
            continue
        sign = 1 if direction(metric).lower_is_better else -1
        first, second = sorted(rows, key=lambda r: (sign * r["value"], r["explainer"]))[:2]
        value = shown(first["value"], metric)
        winners.setdefault(metric, {})[backbone] = Best(value, False)
        if value != shown(second["value"], metric):
            contest = {"best": first["explainer"], "second": second["explainer"]}
            contests.setdefault(backbone, []).append({"metric": metric, **contest})
    return winners, contests
