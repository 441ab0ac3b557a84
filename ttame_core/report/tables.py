"""Tables of the leaderboard for people: wide, in the metrics' units, and with warnings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from ttame_core.audits.comparison import Comparison
from ttame_core.audits.statistics import SIGNIFICANT
from ttame_core.lake.query.directions import direction
from ttame_core.lake.query.units import shown
from ttame_core.lake.schemas import BACKBONE, RIVAL
from ttame_core.report.answers import listed

LEVELS = 3  # levels of a metric that are shown where there is no room for all
WIDTH = 160  # characters in a line where the output is no terminal

GAP = 3  # characters between columns
_NAMES = ("backbone", "explainer")

Rows = list[dict[str, Any]]


def wide(board: pa.Table) -> tuple[list[str], Rows]:
    """Return names of metrics in reading order, and a row per backbone and explainer.

    A row has backbone, explainer, method, role, accuracy, discrimination, and for each metric,
    under its name, the leaderboard's row, or None. Rivals come first.

    Args:
        board: the leaderboard.
    """
    rows = board.to_pylist()
    metrics = sorted({r["metric"] for r in rows if r["explainer"] != BACKBONE}, key=_order)
    values = {(r["backbone"], r["explainer"], r["metric"]): r for r in rows}
    table = []
    for backbone in sorted({r["backbone"] for r in rows}):
        explainers = {
            (r["role"] != RIVAL, r["explainer"] != "ttame", r["explainer"], r["method"], r["role"])
            for r in rows
            if r["backbone"] == backbone and r["explainer"] != BACKBONE
        }
        for *_, explainer, method, role in sorted(explainers):
            row = {"backbone": backbone, "explainer": explainer, "method": method, "role": role}
            for own in ("accuracy", "discrimination"):
                row[own] = values.get((backbone, BACKBONE, own))
            table.append(row | {m: values.get((backbone, explainer, m)) for m in metrics})
    return metrics, table


def _order(metric: str) -> tuple[int, str, float, str]:
    name, _, rest = metric.partition("@")
    level, _, fill = rest.partition("/")
    number = float(level) if re.fullmatch(r"[0-9.]+", level) else 0.0
    return direction(metric).place, fill, -number, name


def principal(metrics: Sequence[str]) -> list[str]:
    """Return the principal metrics, each at its first few levels (LEVELS) and with one fill."""
    chosen: list[str] = []
    for metric in metrics:
        about = direction(metric)
        shown = sum(direction(other) == about for other in chosen)
        if about.principal and "/" not in metric and shown < LEVELS:
            chosen.append(metric)
    return chosen


def headline(metrics: Sequence[str]) -> list[str]:
    """Return one principal metric for each entry of the view `metrics`, such as one of all AD@….

    That is the metric at the level 15, else the one without a level, else the first.
    """
    kinds: dict[int, list[str]] = {}
    for metric in principal(metrics):
        kinds.setdefault(direction(metric).place, []).append(metric)
    return [
        min(members, key=lambda m: (not m.endswith("@15"), "@" in m)) for members in kinds.values()
    ]


def families(metrics: Sequence[str]) -> dict[str, list[str]]:
    """Group metrics by family, both in reading order; unknown ones are in the family `other`."""
    by_family: dict[str, list[str]] = {}
    for metric in metrics:
        by_family.setdefault(direction(metric).family or "other", []).append(metric)
    return by_family


def arrow(metric: str) -> str:
    """Return ↓ where lower is better, ↑ where higher is, and nothing where neither is."""
    return {True: "↓", False: "↑", None: ""}[direction(metric).lower_is_better]


@dataclass(frozen=True)
class Best:
    """The best value of a metric among the rivals of one backbone.

    Attributes:
        value: the value as it is shown; several explainers may have it.
        apart: whether a single explainer has the value and is better beyond chance: either its
            interval does not meet that of the next one (`best`), or it wins the paired comparison
            with the next one, which finds smaller differences (`findings.certain_winners`).
    """

    value: str
    apart: bool


def best(rows: Rows, metric: str) -> dict[str, Best]:
    """Return the best value of a metric for each backbone that has at least two rivals.

    The best value is `apart` where its 95 % interval does not meet that of the next one.

    Args:
        rows: rows of `wide`.
        metric: name of the metric; one without a direction has no best values.
    """
    lower = direction(metric).lower_is_better
    rivals: dict[str, Rows] = {}
    for row in rows:
        if row[metric] and row["role"] == RIVAL and lower is not None:
            rivals.setdefault(row["backbone"], []).append(row[metric])
    winners = {}
    for backbone, values in rivals.items():
        if len(values) < 2:
            continue
        first, second = sorted(values, key=lambda r: r["value"] if lower else -r["value"])[:2]
        one, other = (first, second) if lower else (second, first)
        differ = shown(first["value"], metric) != shown(second["value"], metric)
        apart = differ and bool(one["ci_high"] < other["ci_low"])
        winners[backbone] = Best(shown(first["value"], metric), apart)
    return winners


def wins(row: dict[str, Any], metric: str, winners: Mapping[str, Best]) -> Best | None:
    """Return the best value of a metric on a row's backbone if the row has that value; else None.

    Args:
        row: row of `wide`.
        metric: name of the metric.
        winners: the metric's best values, by backbone.
    """
    winner = winners.get(row["backbone"])
    if winner is None or row[metric] is None or row["role"] != RIVAL:
        return None
    return winner if shown(row[metric]["value"], metric) == winner.value else None


def leaderboard_tables(board: pa.Table, width: int = WIDTH) -> list[Table]:
    """Make tables of the principal metrics for a terminal, as many as needed.

    Families of metrics are not split between tables. The best rival of each backbone is green, and
    bold where its 95 % interval does not meet that of the next one.

    Args:
        board: the leaderboard.
        width: number of characters in a line.
    """
    metrics, rows = wide(board)
    chosen = principal(metrics)
    room = width - sum(GAP + max(map(len, (c, *(r[c] for r in rows)))) for c in _NAMES)
    parts: list[list[str]] = [[]]
    for family in families(chosen).values():
        if parts[-1] and sum(map(_width, [*parts[-1], *family])) > room:
            parts.append([])
        parts[-1] += family
    tables = [_leaderboard_part(part, rows) for part in parts]
    tables[
        -1
    ].caption = "Best in green; in bold where its 95 % interval is apart from the next one's."
    if hidden := len(metrics) - len(chosen):
        tables[-1].caption += f' {hidden} more metrics: ttame query "FROM leaderboard"'
    return tables


def _width(metric: str) -> int:
    return GAP + max(6, len(short(metric)) + 1)


def _leaderboard_part(metrics: Sequence[str], rows: Rows) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1),
        caption_justify="left",
    )
    for name in _NAMES:
        table.add_column(name, no_wrap=True)
    for metric in metrics:
        table.add_column(f"{short(metric)}{arrow(metric)}", justify="right", no_wrap=True)
    winners = {metric: best(rows, metric) for metric in metrics}
    last = None
    for row in rows:
        if last not in (None, row["backbone"]):
            table.add_section()
        cells = [_cell(row, metric, winners[metric]) for metric in metrics]
        name = row["backbone"] if row["backbone"] != last else ""
        table.add_row(Text(name), Text(row["explainer"]), *cells)
        last = row["backbone"]
    return table


def backbones_table(board: pa.Table) -> Table:
    """Make the table of backbones: accuracy, and discrimination, which AD and IC need."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column("backbone", no_wrap=True)
    table.add_column("accuracy", justify="right")
    table.add_column("discrimination", justify="right")
    for row in _one_each(wide(board)[1]):
        values = (row[m] and f"{row[m]['value']:.1f}" for m in ("accuracy", "discrimination"))
        table.add_row(row["backbone"], *(v or "?" for v in values))
    return table


def _one_each(rows: Rows) -> Iterable[dict[str, Any]]:
    return {row["backbone"]: row for row in rows}.values()


def short(metric: str) -> str:
    """Shorten a metric's name for a header, such as pointing_game to pointing."""
    return re.sub("_game|_in_box|_passes", "", metric)


def _cell(row: dict[str, Any], metric: str, winners: Mapping[str, Best]) -> Text:
    if row[metric] is None:
        return Text("")
    winner = wins(row, metric, winners)
    style = "bold green" if winner and winner.apart else "green" if winner else ""
    return Text(
        shown(row[metric]["value"], metric),
        style=style if row["role"] == RIVAL else "dim",
    )


def refusals(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """Return a sentence for each explainer that does not apply, from rows of `refusals`."""
    return [f"{r['explainer']} does not apply to {r['backbone']}: {r['reason']}" for r in rows]


def comparison_table(comparison: Comparison) -> Table:
    """Make the table of a comparison; it names the better one where that is beyond chance."""
    table = Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
        padding=(0, 1),
        caption_justify="left",
        caption=(
            f"Difference: {comparison.a} less {comparison.b}, over the same images, with its 95 % "
            "bootstrap interval. p: Wilcoxon's signed-rank test, corrected for all rows (Holm); "
            f"better: p < {SIGNIFICANT:g} and the interval is clear of 0."
        ),
    )
    rows = comparison.rows.to_pylist()
    cell = comparison.rows.column_names[: comparison.rows.column_names.index("metric")]
    cell = [name for name in cell if len({row[name] for row in rows}) > 1 or name != "dataset"]
    for name in (*cell, "metric"):
        table.add_column(name, no_wrap=True)
    for name in (comparison.a, comparison.b, "difference", "95 %", "p", "pairs"):
        table.add_column(Text(name), justify="right")
    table.add_column("better")
    last: list[str] = []
    for row in rows:
        names = [row[name] for name in cell]
        if last and names != last:
            table.add_section()
        a, b, difference, low, high = (
            shown(row[c], row["metric"]) for c in ("a", "b", "difference", "ci_low", "ci_high")
        )
        table.add_row(
            *(Text(name) for name in (names if names != last else [""] * len(names))),
            Text(row["metric"] + arrow(row["metric"])),
            *(a, b, difference, f"{low} – {high}", f"{row['p_corrected']:.2g}", str(row["pairs"])),
            Text(row["better"] or "", style="bold green"),
        )
        last = names
    return table


def warnings(board: pa.Table, minimum_discrimination: float) -> list[str]:
    """Return the sentences of `voids`, after one that names all backbones of which it is not known.

    That is so without random maps and annotated objects to compare.
    """
    rows = _one_each(wide(board)[1])
    unknown = [row["backbone"] for row in rows if row["discrimination"] is None]
    words = (
        f"Whether AD and IC say anything about {listed(unknown, 6)} is not known: it takes AD@15 "
        "of the explainers random and oracle on annotated images."
    )
    return [*([words] if unknown else []), *voids(board, minimum_discrimination)]


def voids(board: pa.Table, minimum_discrimination: float) -> list[str]:
    """Return a sentence for each backbone on which AD and IC rank nothing.

    Args:
        board: the leaderboard.
        minimum_discrimination: points of AD@15 between random and oracle, under which AD and IC
            rank nothing.
    """
    sentences = []
    rows = wide(board)[1]
    oracle = {r["backbone"]: r.get("AD@15") for r in rows if r["method"] == "oracle"}
    for row in _one_each(rows):
        measured = row["discrimination"]
        if measured and measured["value"] < minimum_discrimination:
            drop = oracle.get(row["backbone"])
            reason = (
                "Random parts of these images do nearly as well as the objects."
                if drop and drop["value"] < minimum_discrimination
                else "It cannot recognise an object whose surroundings are black; train it with "
                "occlusion."
            )
            sentences.append(
                f"AD and IC rank nothing on {row['backbone']}: in AD@15 random maps and the "
                f"annotated objects are only {measured['value']:.1f} points apart (at least "
                f"{minimum_discrimination:g} are asked for). {reason}"
            )
    return sentences


def records(board: pa.Table) -> Rows:
    """Return the leaderboard as rows of text, for a table artifact of Prefect."""
    metrics, rows = wide(board)

    def text(measured: dict[str, Any] | None) -> str:
        return shown(measured["value"], measured["metric"]) if measured else ""

    names = ("accuracy", "discrimination", *metrics)
    return [
        {"backbone": row["backbone"], "explainer": row["explainer"]}
        | {name: text(row[name]) for name in names}
        for row in rows
    ]
