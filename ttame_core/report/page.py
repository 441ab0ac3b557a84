"""The report of an audit as one HTML page, which needs no other files but pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ttame_core.audits.record import Recorded
from ttame_core.lake.query.directions import direction
from ttame_core.lake.query.units import shown
from ttame_core.lake.schemas import RIVAL
from ttame_core.perturbation.whole import CHANGES
from ttame_core.report.album import EXPLAINERS, Exhibit
from ttame_core.report.assets import asset, script_hash, template
from ttame_core.report.findings import (
    Findings,
    how_alike,
    what_becomes,
    what_change_does,
    what_is_alike,
)
from ttame_core.report.plots import BACKBONES, Plot, Plots, looks
from ttame_core.report.tables import (
    Best,
    Rows,
    arrow,
    families,
    headline,
    refusals,
    short,
    voids,
    wide,
    wins,
)
from ttame_core.report.verdict import Verdict
from ttame_core.stages.roles import roles


def render_page(
    recorded: Recorded,
    findings: Findings,
    winners: Mapping[str, Mapping[str, Best]],
    exhibits: Mapping[str, Sequence[Exhibit]],
    verdict: Verdict,
) -> str:
    """Return the page of a record as HTML.

    Args:
        recorded: content of the record.
        findings: findings about the audit, beside its leaderboard.
        winners: best rivals by metric and backbone (`findings.certain_winners`).
        exhibits: images to show, by kind.
        verdict: answers to the questions on top, and the reasons of the first.
    """
    audit, versions = recorded.audit, recorded.versions
    metrics, rows = wide(recorded.board)
    drop = f"AD@{findings.keep:g}" if findings.keep is not None else None
    seen = looks(findings.order, roles(audit))
    script, style = (asset(name) for name in ("page.js", "page.css"))
    minimum = audit.evaluation.minimum_discrimination
    winners = _without_void(winners, verdict.blind)
    return template("page.html").render(
        title=f"Audit {audit.name}",
        when=recorded.now.strftime("%Y-%m-%d %H:%M UTC"),
        version=versions["ttame"],
        script=Markup(script),
        script_hash=script_hash(script),
        style=Markup(style),
        audited=verdict.audited,
        answers=verdict.answers,
        reasons=verdict.reasons,
        drop=drop,
        changes=recorded.changes,
        looks=[look for look in seen.values() if look.place is not None],
        others=[name for name, look in seen.items() if look.place is None],
        hidden=max(0, len({r["backbone"] for r in rows}) - BACKBONES),
        pictured=EXPLAINERS,
        keep=f"{findings.keep:g}" if findings.keep is not None else None,
        minimum=minimum,
        backbones=_backbones(rows),
        blind=verdict.blind,
        bests=_bests(metrics, rows, winners),
        boards=_boards(metrics, rows, winners),
        plots=_plots(Plots(seen), recorded.board.to_pylist(), findings, drop),
        classes=_classes(findings),
        first=_first(findings, findings.small_trust(recorded.board)),
        outside=exhibits.get("outside", ()),
        alike=_alike(exhibits.get("alike", ()), findings.series["pasted"]),
        turned=[
            {**row, "change": CHANGES[row["change"]].words, "words": what_change_does(row)}
            for row in findings.series["changed"]
        ],
        wrong=exhibits.get("wrong", ()),
        confused=findings.series["confused"],
        boxed=any(own.boxes for shown in exhibits.values() for own in shown),
        gallery=_gallery(exhibits, findings.leads),
        sql=findings.sql,
        failures=recorded.failures,
        warnings=voids(recorded.board, minimum),
        refusals=refusals(recorded.refusals),
        matched=recorded.matched,
        spec=recorded.frozen,
        versions="\n".join(f"{name} {version}" for name, version in versions.items()),
    )


# ---- tables ---------------------------------------------------------------------------------


def _backbones(rows: Rows) -> list[dict[str, Any]]:
    """Return accuracy and discrimination of each backbone."""
    first = {row["backbone"]: row for row in reversed(rows)}
    return [
        {"name": name, **{m: first[name][m] for m in ("accuracy", "discrimination")}}
        for name in sorted(first)
    ]


def _without_void(
    winners: Mapping[str, Mapping[str, Best]], blind: Collection[str]
) -> dict[str, Mapping[str, Best]]:
    """Leave out the winners at AD and IC on `blind` backbones, where these metrics rank nothing."""
    return {
        metric: {name: best for name, best in by_backbone.items() if name not in blind}
        if direction(metric).family == "confidence"
        else by_backbone
        for metric, by_backbone in winners.items()
    }


def _bests(
    metrics: Sequence[str], rows: Rows, winners: Mapping[str, Mapping[str, Best]]
) -> dict[str, Any]:
    """Return the table of the best rivals by metric and backbone."""
    chosen = [m for m in headline(metrics) if m in winners]
    table = []
    for backbone in sorted({row["backbone"] for row in rows}):
        own = [row for row in rows if row["backbone"] == backbone]
        cells = []
        for metric in chosen:
            winning = [(r["explainer"], wins(r, metric, winners[metric])) for r in own]
            names = [(name, best) for name, best in winning if best]
            cells.append(
                {
                    "names": [name for name, _ in names],
                    "value": names[0][1].value + _unit(metric) if names else "",
                    "apart": bool(names) and names[0][1].apart,
                }
            )
        table.append({"backbone": backbone, "cells": cells})
    return {"head": [_head(m) for m in chosen], "terms": _terms(chosen), "rows": table}


def _head(metric: str) -> dict[str, Any]:
    better = {True: "lower is better", False: "higher is better", None: ""}
    return {
        "name": metric,
        "short": short(metric),
        "arrow": arrow(metric),
        "better": better[direction(metric).lower_is_better],
        "unit": direction(metric).unit,
        "about": direction(metric).description,
        "decides": direction(metric).family in ("localization", "road", "curves"),
    }


def _terms(metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return what metrics are: their names as tables have them, and words for each description."""
    terms: dict[str, list[str]] = {}
    for metric in metrics:
        head = _head(metric)
        words = "; ".join(filter(None, (head["about"], head["better"])))
        if words:
            full = f" ({metric})" if head["short"] != metric else ""
            terms.setdefault(words, []).append(head["short"] + full)
    return [{"names": names, "words": words} for words, names in terms.items()]


def _unit(metric: str) -> str:
    unit = direction(metric).unit
    return f" {unit}" if unit in ("%", "s") else ""


def _boards(
    metrics: Sequence[str],
    rows: Rows,
    winners: Mapping[str, Mapping[str, Best]],
) -> list[dict[str, Any]]:
    """Return a table of the headline metrics, and one of each family with all its metrics.

    What metrics are stands beneath; of the first table's, those that are not among the winners.
    """
    parts = {"Main metrics": headline(metrics), **families(metrics)}
    return [
        {
            "name": name,
            "metrics": len(members),
            "head": [_head(m) for m in members],
            "terms": _terms([m for m in members if number or m not in winners]),
            "rows": [
                {
                    "backbone": row["backbone"],
                    "explainer": row["explainer"],
                    "end": row["role"] != RIVAL,
                    "cells": [_cell(row, m, winners.get(m, {})) for m in members],
                }
                for row in rows
                if any(row[m] for m in members)
            ],
        }
        for number, (name, members) in enumerate(parts.items())
        if members
    ]


def _cell(row: dict[str, Any], metric: str, winners: Mapping[str, Best]) -> dict[str, Any] | None:
    """Return what a table's cell shows: a value with its interval; None where there is no value.

    The numbers come rounded, as text; exactly, for CSV; and as positions 0 to 100, for a bar.
    """
    measured = row[metric]
    if measured is None:
        return None
    winner = wins(row, metric, winners)
    ends = ("value", "ci_low", "ci_high")
    bar = None
    if direction(metric).unit == "%":
        bar = {name: round(min(max(measured[name], 0), 100), 1) for name in ends}
    return {
        **{name: shown(measured[name], metric) for name in ends},
        "exact": {name: f"{measured[name]:.6g}" for name in ends},
        "images": measured["images"],
        "style": "best sure" if winner and winner.apart else "best" if winner else "",
        "bar": bar,
    }


def _classes(findings: Findings) -> list[dict[str, Any]]:
    """Return a table for each backbone, with a row for each class and a column per explainer."""
    rows = findings.series["classes"]
    tables = []
    for backbone in sorted({row["backbone"] for row in rows})[:BACKBONES]:
        own = [row for row in rows if row["backbone"] == backbone]
        there = {row["explainer"] for row in own}
        explainers = [name for name in findings.order if name in there]
        by_place: dict[int, list[dict[str, Any]]] = {}
        for row in own:
            by_place.setdefault(row["place"], []).append(row)
        tables.append(
            {
                "backbone": backbone,
                "explainers": explainers,
                "classes": own[0]["classes"],
                "rows": [
                    {
                        "class": members[0]["class"],
                        "accuracy": members[0]["accuracy"],
                        "images": max(m["images"] for m in members),
                        "cells": [
                            next((m["value"] for m in members if m["explainer"] == e), None)
                            for e in explainers
                        ],
                    }
                    for members in by_place.values()
                ],
            }
        )
    return tables


def _first(findings: Findings, small: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the predictions to look at first: a table for each backbone.

    Args:
        findings: findings about the audit.
        small: sentence on small trust numbers, by backbone.
    """
    rows = findings.series["look"]
    return [
        {
            "backbone": name,
            "lead": findings.leads.get(name),
            "small": small.get(name, ""),
            "stable": any(row["stable"] is not None for row in rows if row["backbone"] == name),
            "rows": [row for row in rows if row["backbone"] == name],
        }
        for name in sorted({row["backbone"] for row in rows})
    ]


# ---- plots and pictures ---------------------------------------------------------------------


def _plots(
    plots: Plots, board: Sequence[dict[str, Any]], findings: Findings, drop: str | None
) -> dict[str, Any]:
    """Draw the plots of the page.

    Returns:
        The panels of `scale`; the SVG of `ranks`, which may be empty; and `rows`, the sections with
        figures.
    """
    series = findings.series

    def row(name: str, about: str, sql: str, *figures: tuple[str, list[Plot]]) -> dict[str, Any]:
        return {
            "name": name,
            "about": about,
            "sql": sql,
            "figures": [
                {"title": title, "panels": _safe(panels)} for title, panels in figures if panels
            ],
        }

    keep = f"{findings.keep:g}" if findings.keep is not None else ""
    rows = [
        row(
            "Cost against faithfulness",
            f"How long a map takes, and how much of the confidence is lost when only its {keep} % "
            "most relevant pixels are left. The best are at the lower left. Dotted, where they "
            "were measured and lie no higher: random maps and the annotated objects.",
            "leaderboard",
            ("", plots.cost(board, drop) if drop else []),
        ),
        row(
            "Confidence over the kept percentage",
            "AD: how much of the confidence is lost. IC: on how many images it rises. Bands: 95 % "
            "bootstrap intervals.",
            "leaderboard",
            ("Average drop (AD)", plots.kept(board, "AD")),
            ("Increase in confidence (IC)", plots.kept(board, "IC")),
        ),
        row(
            "Removing pixels (ROAD)",
            "Probability of the explained class as pixels are removed and filled in from their "
            "neighbours. Bands: 95 % intervals of the mean.",
            "removal",
            ("Most relevant first (MoRF)", plots.removal(series["removal"], "MoRF")),
            ("Least relevant first (LeRF)", plots.removal(series["removal"], "LeRF")),
        ),
        row(
            "Insertion and deletion",
            "Probability of the explained class as the most relevant pixels are put into a blurred "
            "image, or blackened. Bands: 95 % intervals of the mean.",
            "steps",
            ("Insertion", plots.steps(series["steps"], "insertion")),
            ("Deletion", plots.steps(series["steps"], "deletion")),
        ),
        row(
            "Localisation by the size of objects",
            "Small objects cover less than 10 % of the view, medium ones less than 30 %.",
            "sizes",
            ("Share of the map in the boxes", plots.sizes(series["sizes"], "energy_in_box")),
            ("Maximum on the object", plots.sizes(series["sizes"], "pointing_game")),
        ),
        row(
            "Training of the heads",
            "A head is the small network that an explainer trains for a classifier. Losses of "
            "different methods are not comparable; what is validated is.",
            "training",
            ("Average drop at 15 %, validation", plots.training(series["training"], "AD@15")),
            ("Loss, mean of every hundredth", plots.training(series["training"], "loss")),
        ),
    ]
    ranks = plots.ranks(series["ranks"])
    return {
        "scale": _safe(plots.scale(board, drop) if drop else []),
        "ranks": Markup(ranks.svg) if ranks else "",
        "rows": [row for row in rows if row["figures"]],
    }


def _safe(panels: Sequence[Plot]) -> list[dict[str, Any]]:
    return [{"title": panel.title, "svg": Markup(panel.svg)} for panel in panels]


def _alike(shown: Sequence[Exhibit], pasted: Rows) -> list[dict[str, Any]]:
    """Return the classes whose maps are alike, each with its images."""
    classes: dict[tuple[str, str, str], list[Exhibit]] = {}
    for own in shown:
        row = own.finding
        classes.setdefault((row["backbone"], row["class"], row["aspect"]), []).append(own)
    return [
        {
            "backbone": backbone,
            "class": name,
            "what": what_is_alike(own[0].finding),
            "becomes": what_becomes(pasted, backbone, name, aspect),
            "much": how_alike(own[0].finding),
            "images": own[0].finding["images"],
            "exhibits": own,
        }
        for (backbone, name, aspect), own in classes.items()
    ]


KINDS = {
    "best": ("Best", "the leading explainer's map keeps most of the confidence"),
    "typical": ("Typical", "nearest to the median"),
    "worst": ("Worst", "the leading explainer's map keeps least"),
    "disputed": ("Most disputed", "explainers' maps are least alike"),
}


def _gallery(
    exhibits: Mapping[str, Sequence[Exhibit]], leads: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the images of every kind, for each backbone."""
    names = sorted({e.backbone for kind in KINDS for e in exhibits.get(kind, ())})
    return [
        {
            "backbone": name,
            "lead": leads.get(name),
            "kinds": [
                {"name": title, "about": about, "exhibits": own}
                for kind, (title, about) in KINDS.items()
                if (own := [e for e in exhibits.get(kind, ()) if e.backbone == name])
            ],
        }
        for name in names
    ]
