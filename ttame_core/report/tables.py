"""The leaderboard for people: wide, and with the warnings that belong to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from ttame_core.coverage import Coverage

BACKBONE = "-"  # the explainer of what is a backbone's own
LOWER_IS_BETTER = ("AD@", "complexity", "max_sensitivity", "sanity_")
NOT_RIVALS = ("oracle", "random")  # the ends of the scale win and lose nothing
PLACES = ("pointing_game", "energy_in_box", "box_iou")
ON_TERMINALS = re.compile(rf"(AD|IC|AG)@[^/]+|{'|'.join(PLACES)}")  # there is room for these

Rows = list[dict[str, Any]]


def wide(board: pa.Table) -> tuple[list[str], Rows]:
    """Metric names in reading order, and a row per backbone and explainer.

    A row has backbone, explainer, accuracy, discrimination, and under each metric's name its row of
    the leaderboard; None where there is none.
    """
    rows = board.to_pylist()
    metrics = sorted({r["metric"] for r in rows if r["explainer"] != BACKBONE}, key=_order)
    values = {(r["backbone"], r["explainer"], r["metric"]): r for r in rows}
    table = []
    for backbone in sorted({r["backbone"] for r in rows}):
        explainers = {r["explainer"] for r in rows if r["backbone"] == backbone} - {BACKBONE}
        for explainer in sorted(explainers, key=lambda e: (e in NOT_RIVALS, e != "ttame", e)):
            row = {"backbone": backbone, "explainer": explainer}
            for own in ("accuracy", "discrimination"):
                row[own] = values.get((backbone, BACKBONE, own))
            table.append(row | {m: values.get((backbone, explainer, m)) for m in metrics})
    return metrics, table


def _order(metric: str) -> tuple[int, float, str]:
    name, _, keep = metric.partition("@")
    families = ("AD", "IC", "AG", *PLACES)
    return (families.index(name) if name in families else 99, -float(keep or 0), metric)


def best(rows: Rows, metric: str) -> dict[str, float]:
    """The best value of a metric among the rivals of each backbone, as it is shown."""
    found: dict[str, float] = {}
    for row in rows:
        if row[metric] and row["explainer"] not in NOT_RIVALS:
            value = round(row[metric]["value"], 1)
            choose = min if metric.startswith(LOWER_IS_BETTER) else max
            found[row["backbone"]] = choose(value, found.get(row["backbone"], value))
    return found


def leaderboard_table(board: pa.Table) -> Table:
    """Its main metrics on a terminal, in percent; the best rival of each backbone in bold."""
    metrics, rows = wide(board)
    metrics = [metric for metric in metrics if ON_TERMINALS.fullmatch(metric)]
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1))
    for name in ("backbone", "explainer"):
        table.add_column(name, no_wrap=True)
    for metric in metrics:
        arrow = "↓" if metric.startswith(LOWER_IS_BETTER) else "↑"
        table.add_column(f"{short(metric)}{arrow}", justify="right", no_wrap=True)
    winners = {metric: best(rows, metric) for metric in metrics}
    last = None
    for row in rows:
        if last not in (None, row["backbone"]):
            table.add_section()
        cells = [_cell(row, metric, winners) for metric in metrics]
        name = row["backbone"] if row["backbone"] != last else ""
        table.add_row(Text(name), Text(row["explainer"]), *cells)
        last = row["backbone"]
    return table


def backbones_table(board: pa.Table) -> Table:
    """What is a backbone's own: accuracy, and whether AD and IC rank anything on it."""
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
    """A header that leaves room for the others: pointing_game → pointing."""
    return re.sub("_game|_in_box", "", metric)


def _cell(row: dict[str, Any], metric: str, winners: dict[str, dict[str, float]]) -> Text:
    if row[metric] is None:
        return Text("")
    value = round(row[metric]["value"], 1)
    rival = row["explainer"] not in NOT_RIVALS
    wins = rival and value == winners[metric].get(row["backbone"])
    return Text(f"{value:.1f}", style="bold green" if wins else "" if rival else "dim")


def warnings(board: pa.Table, minimum_discrimination: float) -> list[str]:
    """A sentence for each backbone on which AD and IC rank nothing, or might not."""
    sentences = []
    rows = wide(board)[1]
    oracle = {r["backbone"]: r.get("AD@15") for r in rows if r["explainer"] == "oracle"}
    for row in _one_each(rows):
        found = row["discrimination"]
        if found is None:
            sentences.append(
                f"Whether AD and IC say anything about {row['backbone']} is not known: it takes "
                "AD@15 of the explainers random and oracle on annotated images."
            )
        elif found["value"] < minimum_discrimination:
            drop = oracle.get(row["backbone"])
            reason = (
                "It recognises these images by whatever random maps leave of them."
                if drop and drop["value"] < minimum_discrimination
                else "It cannot recognise an object whose surroundings are black; train it with "
                "occlusion."
            )
            sentences.append(
                f"AD and IC rank nothing on {row['backbone']}: in AD@15 random maps and the "
                f"annotated objects are only {found['value']:.1f} points apart (at least "
                f"{minimum_discrimination:g} are asked for). {reason}"
            )
    return sentences


def records(board: pa.Table) -> Rows:
    """The leaderboard as plain rows of text, for a Prefect table artifact."""
    metrics, rows = wide(board)

    def text(found: dict[str, Any] | None) -> str:
        return f"{found['value']:.1f}" if found else ""

    names = ("accuracy", "discrimination", *metrics)
    return [
        {"backbone": row["backbone"], "explainer": row["explainer"]}
        | {name: text(row[name]) for name in names}
        for row in rows
    ]


def coverage_line(found: Coverage) -> str:
    """An architecture, its taps (stride, channels, how they lie), its maps and its head."""
    taps = " · ".join(
        f"{tap.name} /{found.input_size[0] / tap.height:.3g} {tap.channels} {tap.layout}"
        for tap in found.taps
    )
    size = "×".join(map(str, found.input_size))
    maps = "×".join(map(str, found.map_size))
    return (
        f"{found.model:<44} {size:>9}  {taps}  maps {maps}  "
        f"head {found.head_parameters / 1e6:.1f} of {found.parameters / 1e6:.1f} M"
    )


def sweep_table(
    title: str, trials: Sequence[Mapping[str, float]], shortfall: Mapping[str, float]
) -> Table:
    """Trials of a sweep, best first, and how far the spec's own settings are from the best."""
    names = [*trials[0]]
    behind = " and ".join(f"{points:.1f} points of {name}" for name, points in shortfall.items())
    table = Table(
        title=title,
        caption=f"The spec's own settings are trial 0, {behind} behind the best found.",
        box=box.SIMPLE_HEAD,
        header_style="bold",
    )
    for name in ("trial", *names):
        table.add_column(name.replace("lambda_", "λ "), justify="right", no_wrap=True)
    ranked = sorted(enumerate(trials), key=lambda item: item[1]["AD@15"] - item[1]["IC@15"])
    for number, trial in ranked:
        style = "bold" if number == 0 else None
        values = [f"{trial[n]:.1f}" if "@" in n else f"{trial[n]:.3g}" for n in names]
        table.add_row(str(number), *values, style=style)
    return table
