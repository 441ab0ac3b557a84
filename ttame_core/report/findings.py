"""The findings of a report: answers of SQL over the lake, each with a bounded number of rows."""

from __future__ import annotations

import math
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
from ttame_core.metrics.marked import SIDE
from ttame_core.perturbation.whole import CHANGES
from ttame_core.report.answers import counted
from ttame_core.report.tables import Best, wide
from ttame_core.stages.roles import rivals

Rows = list[dict[str, Any]]

SHOWN = 6  # images of a class whose maps are alike
KEPT = 15.0  # percentage of kept pixels in the shown masked images, if it was measured
SERIES = (
    *("removal", "steps", "sizes", "classes", "training", "ranks", "look", "pasted", "changed"),
    "confused",
)
TABLES = ("leaderboard", "bests", "predictions")  # tables that readers ask for themselves
ENOUGH = 10  # percentage points, by which pasted parts raise a probability
SMALL = 25  # median trust, under which the report says why the numbers are small
HALF = 50  # percentage of the confidence, under which annotated objects keep little of it
EXHIBITS = ("gallery", "disputed", "outside", "alike", "wrong")


def what_is_alike(row: Mapping[str, Any]) -> str:
    """Return what the maps of a class have in common, for the words "the maps of … mark …".

    Args:
        row: row of the exhibits of kind `alike`.
    """
    if row["aspect"] == "look":
        return "what looks the same"
    if row["spot"] is None:
        return "the same place"
    row_number, column = divmod(row["spot"] - 1, SIDE)
    down = _end_of(row_number, "upper", "lower")
    right = _end_of(column, "left", "right")
    where = f"{down} {right} corner" if down and right else f"{down or right} edge"
    return f"the same place, most of all the {where if down or right else 'middle'}"


def how_alike(row: Mapping[str, Any]) -> str:
    """Return how alike the maps of a class are, and those of the other classifiers for that class.

    Args:
        row: row of the exhibits of kind `alike`.
    """
    own = f"{row['score']:.2f} alike"
    if row["elsewhere"] is None:
        return own
    other = f"{row['elsewhere']:.2f}".replace("-", "−")
    if row["whose"]:
        return f"{own}; those of {row['whose']} {other}"
    return f"{own}; those of other classifiers {other} at most"


def what_becomes(rows: Rows, backbone: str, name: str, aspect: str, *, brief: bool = False) -> str:
    """Return a sentence on what the marked parts of a class make of other pictures, or nothing.

    Args:
        rows: rows of the series `pasted`.
        backbone: name of the backbone.
        name: name of the class whose maps are alike.
        aspect: `place` or `look`, in which they are.
        brief: whether numbers that are usual are left out.
    """
    wanted = backbone, name, aspect
    own = [row for row in rows if (row["backbone"], row["class"], row["aspect"]) == wanted]
    if not own:
        return ""
    (row,) = own
    words = (
        f"Pasted onto {counted(row['pictures'], 'picture')} of other classes, what these maps mark "
        f"takes the probability of {name} from {row['before']:.0f} % to {row['alike']:.0f} %; "
        f"what the least alike maps of {name} mark takes it to {row['unlike']:.0f} %."
    )
    if row["usual_classes"]:
        others = counted(row["usual_classes"], "other class", "other classes")
        before, after = row["usual_before"], row["usual_after"]
        rise = row["alike"] - row["before"]
        words += (
            f" The same done with {others} takes theirs from {before:.0f} % to {after:.0f} % "
            "(median), "
        )
        neither = "neither clears the class nor accuses it."
        if rise >= ENOUGH and rise >= 2 * (after - before):
            words += "so what is marked here decides more than is usual."
        elif brief:
            return f"What they mark, pasted onto other pictures, {neither}"
        else:
            words += f"so this is usual, and {neither}"
    return words


def what_change_does(row: Mapping[str, Any]) -> str:
    """Return a sentence on a class that pictures are taken for once they are changed as a whole.

    Args:
        row: row of the series `changed`.
    """
    pictures = counted(row["pictures"], "picture")
    done = CHANGES[row["change"]].words
    words = (
        f"{done[0].upper()}{done[1:]}, {pictures} of other classes take the "
        f"probability of {row['class']} from {row['before']:.0f} % to {row['after']:.0f} %."
    )
    if row["elsewhere"] is not None:
        words += (
            " With other classifiers the same raises that of any class by "
            f"{max(row['elsewhere'], 0):.0f} points at most."
        )
    return words


def what_is_confused(row: Mapping[str, Any]) -> str:
    """Return sentences on a class of which many images are taken for one other class.

    Args:
        row: row of the series `confused`.
    """
    name, other = row["class"], row["other"]
    words = f"{row['taken']:,} of {counted(row['images'], 'image')} of {name} are taken for {other}"
    back = f", and {row['back']:,} of {row['others']:,} of {other} for {name}"
    signs = {
        None: ".",
        "nowhere": f": the label {name} may mean another class than it was matched with.",
        "swapped": ": the names of the two may be swapped.",
        "one-sided": f": in the training, images of {name} may be labelled {other}, be few, or "
        "look different.",
    }
    none = ", of which there is no image"
    return f"{words}{back if row['others'] else none}{signs[row['sign']]}"


def why_small(row: Mapping[str, Any], lead: str, keep: float, oracle: float | None) -> str:
    """Return a sentence on why trust is small for most predictions of a classifier, or nothing.

    Args:
        row: row of the series `look`.
        lead: name of the explainer whose maps these numbers are about.
        keep: percentage of kept pixels in masked images.
        oracle: percentage of the confidence that the annotated objects keep; None if not known.
    """
    if row["usual"] >= SMALL:
        return ""
    words = (
        f"Half of the {row['images']:,} trust numbers of {row['backbone']} with maps of {lead} "
        f"are {math.ceil(row['usual'])} or less: on average the marked {keep:g} % of the pixels "
        f"keep {row['keeps']:.0f} % of the confidence"
    )
    if row["stays"] is not None and row["stays"] < row["keeps"]:
        words += f", and {row['stays']:.0f} % of the map stays when the image hardly changes"
    elif oracle is None:
        words += (
            "; whether that is for the maps, or for a classifier that recognises little in masked "
            "images, is not known: that takes annotated objects, and oracle among the explainers"
        )
    elif oracle < HALF:
        words += (
            f", and even the annotated objects keep no more than {oracle:.0f} %, so that the "
            "classifier recognises little in masked images, whatever the map"
        )
    else:
        words += (
            f", where the annotated objects keep {oracle:.0f} %, so that these maps show too "
            "little of what the classifier needs"
        )
    return f"{words}. Read the order of the numbers, then, and not their size."


def _end_of(number: int, first: str, last: str) -> str:
    """Return the name of the end of a side where a cell (0 to SIDE − 1) lies, or nothing."""
    if number < 2:
        return first
    return last if number >= SIDE - 2 else ""


@dataclass(frozen=True)
class Findings:
    """The findings about one audit.

    Attributes:
        series: rows of the series that plots and tables show (SERIES), by name, such as `ranks`.
        exhibits: images to show, a row for each image and reason (kind, backbone, key, place,
            value, …).
        scores: scores of the maps of these images, by backbone, key and explainer.
        classes: number of classes of the data set.
        order: names of the rivals, the best mean rank first.
        leads: for each backbone, the rival that keeps most confidence.
        keep: percentage of kept pixels in masked images; None where there are none.
        images: number of explained images.
        sql: queries by name, as `ttame query` takes them.
    """

    series: Mapping[str, Rows]
    exhibits: Rows
    scores: Mapping[tuple[str, str, str], dict[str, Any]]
    classes: int
    order: Sequence[str]
    leads: Mapping[str, str]
    keep: float | None
    images: int
    sql: Mapping[str, str]

    def small_trust(self, board: pa.Table) -> dict[str, str]:
        """Return a sentence for each classifier whose trust numbers are small (`why_small`).

        Args:
            board: leaderboard of the audit.
        """
        keep = self.keep or KEPT
        oracle = {
            row["backbone"]: 100 - row["value"]
            for row in board.to_pylist()
            if row["method"] == "oracle" and row["metric"] == f"AD@{keep:g}"
        }
        rows = {row["backbone"]: row for row in self.series["look"]}
        why = {
            name: why_small(row, self.leads[name], keep, oracle.get(name))
            for name, row in rows.items()
        }
        return {name: words for name, words in why.items() if words}

    @property
    def suspected(self) -> list[tuple[str, str]]:
        """The backbone and the name of each class that a shortcut may tell, each pair once."""
        rows = [*self.of("alike"), *self.series["changed"]]
        return [*dict.fromkeys((row["backbone"], row["class"]) for row in rows)]

    def of(self, kind: str) -> Rows:
        """Return the images to show of one kind.

        Args:
            kind: best, typical, worst, disputed, outside, alike or wrong.
        """
        return [row for row in self.exhibits if row["kind"] == kind]


def gather(
    db: duckdb.DuckDBPyConnection, audit: spec.AuditSpec, board: pa.Table, now: str
) -> Findings:
    """Return all findings of a report, which do not include the leaderboard.

    Args:
        db: connection of `connect_audit`, in which `leaderboard` becomes `board`.
        audit: the spec.
        board: leaderboard of the audit.
        now: time of the audit, as it names the record's folder.
    """
    rows = wide(board)[1]
    keep, leads = _leads(board)
    known = {
        **_known(audit, sorted({row["backbone"] for row in rows}), SHOWN),
        "audit": audit.name,
        "now": now,
        "split": audit.maps.split,
        "explainers": [e.name for e in audit.explainers],
        "leads": leads,
        "keep": keep or KEPT,
    }
    set_variables(db, known)
    db.register("leaderboard", board)  # replaces the view, which would be computed again
    series = {name: _rows(db, name) for name in SERIES}
    exhibits = [row for name in EXHIBITS for row in _rows(db, name)]
    pictured = [{"backbone": e["backbone"], "key": e["key"]} for e in exhibits]
    db.register("pictured", pa.Table.from_pylist(pictured, _PICTURED))
    scores = {(r["backbone"], r["key"], r["explainer"]): r for r in _rows(db, "scores")}
    ((classes,),) = db.execute(
        "SELECT count(DISTINCT class) FROM samples WHERE dataset = ?", [audit.dataset.name]
    ).fetchall()
    ((images,),) = db.execute(
        "SELECT count(DISTINCT key) FROM predicted_numbers WHERE dataset = ? "
        "AND list_contains(?, backbone)",
        [audit.dataset.name, known["backbones"]],
    ).fetchall()
    ranked = [row["explainer"] for row in series["ranks"] if row["timestamp"] == now]
    order = [*ranked, *(name for name in rivals(audit) if name not in ranked)]
    sql = {name: _runnable(sql_text(name), known) for name in (*SERIES, *EXHIBITS, *TABLES)}
    return Findings(series, exhibits, scores, classes, order, leads, keep, images, sql)


def alike_images(db: duckdb.DuckDBPyConnection, audit: spec.AuditSpec, backbone: str) -> Rows:
    """Return all images of the classes whose maps are alike, as report/sql/alike.sql has them.

    Args:
        db: connection that sees the audit's scores.
        audit: the spec.
        backbone: name of the backbone.
    """
    set_variables(db, _known(audit, [backbone], most=2**31))
    return _rows(db, "alike")


def _known(audit: spec.AuditSpec, backbones: Sequence[str], most: int) -> dict[str, Any]:
    """Return the variables of report/sql/alike.sql, which other queries have as well."""
    names = {"dataset": audit.dataset.name, "backbones": backbones, "rivals": rivals(audit)}
    return {**names, "most": most}


_PICTURED = pa.schema([("backbone", pa.string()), ("key", pa.string())])


def _rows(db: duckdb.DuckDBPyConnection, name: str) -> Rows:
    return answer(db, sql_text(name)).to_pylist()


def sql_text(name: str) -> str:
    """Return the text of a report's SQL file with this name."""
    return resources.files("ttame_core.report").joinpath(f"sql/{name}.sql").read_text("utf-8")


def _runnable(sql: str, known: Mapping[str, Any]) -> str:
    """Fill variables into a query, so that it is one statement that people can run themselves."""
    sql = sql.replace("(FROM recorded)", f"(SELECT key {SPLIT}{FIRST}{RECORDED})")
    for name, value in known.items():
        sql = sql.replace(f"getvariable('{name}')", literal(value))
    return sql


def _leads(board: pa.Table) -> tuple[float | None, dict[str, str]]:
    """Return the kept percentage of shown images, and each backbone's rival that loses least."""
    drops: dict[float, Rows] = {}
    for row in board.to_pylist():
        name, _, level = row["metric"].partition("@")
        if name == "AD" and "/" not in level and row["role"] == RIVAL:
            drops.setdefault(float(level), []).append(row)
    if not drops:
        return None, {}
    keep = min(drops, key=lambda level: abs(level - KEPT))  # as in the view trust
    ranked = sorted(drops[keep], key=lambda r: (r["value"], r["explainer"]), reverse=True)
    return keep, {row["backbone"]: row["explainer"] for row in ranked}


# ---- which explainer is best, and whether that is certain -----------------------------------


def certain_winners(db: duckdb.DuckDBPyConnection, board: pa.Table) -> dict[str, dict[str, Best]]:
    """Return the best rival by metric and backbone, `apart` where that is beyond chance.

    The best rival and the next one are compared image by image, as by `ttame compare`. The best one
    is apart where Wilcoxon's p, corrected for all such contests of the audit (Holm), is under 0.05
    (SIGNIFICANT), and the 95 % bootstrap interval of the difference does not contain 0.

    Args:
        db: connection that sees the single values of the audit's record (`own_values`).
        board: leaderboard of the audit.
    """
    winners, contests = _contests(board)
    differences: list[tuple[str, str, dict[str, float]]] = []
    weights = bootstrap_weights(db)
    for backbone, rows in contests.items():
        set_variables(db, {"backbone": backbone})
        db.register("contests", pa.Table.from_pylist(rows))
        pairs = answer(db, sql_text("pairs"))
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
    """Return the best rivals by metric and backbone, and the comparisons still to be made.

    No rival is `apart` yet. A comparison has a metric and the names of the best and the second
    rival; they are listed by backbone.
    """
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
