"""The report of an audit as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import pyarrow as pa
from PIL import Image

from ttame_core.lake.directions import direction, is_yardstick
from ttame_core.report.tables import (
    Best,
    arrow,
    best,
    families,
    principal,
    short,
    shown,
    wide,
    wins,
)

JPEG_QUALITY = 88


def render_page(
    title: str,
    when: str,
    dataset: str,
    board: pa.Table,
    warnings: Sequence[str],
    failures: Mapping[str, str],
    refusals: Sequence[str],
    picture: Image.Image | None,
    spec: str,
    versions: Mapping[str, str],
) -> str:
    """The page.

    board: of the audit's backbones. failures: reason by backbone. refusals: a sentence for each
    explainer that does not apply to a backbone. spec: YAML.
    """
    template = resources.files("ttame_core.report").joinpath("page.html").read_text("utf-8")
    metrics, rows = wide(board)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(template).render(
        title=title,
        when=when,
        dataset=dataset,
        version=versions["ttame"],
        backbones=_backbones(metrics, rows),
        warnings=warnings,
        failures=[{"backbone": name, "reason": reason} for name, reason in failures.items()],
        refusals=refusals,
        picture=_encoded(picture) if picture else "",
        spec=spec,
        versions="\n".join(f"{name} {version}" for name, version in versions.items()),
    )


def _backbones(metrics: Sequence[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each backbone's own values, the table of principal metrics, and a table of each family."""
    winners = {metric: best(rows, metric) for metric in metrics}
    found = []
    for name in dict.fromkeys(row["backbone"] for row in rows):
        own = [row for row in rows if row["backbone"] == name]
        there = [m for m in metrics if any(row[m] for row in own)]
        found.append(
            {
                "name": name,
                "accuracy": own[0]["accuracy"],
                "discrimination": own[0]["discrimination"],
                "principal": _table(principal(there), own, winners),
                "families": [
                    {"name": family, **_table(members, own, winners)}
                    for family, members in families(there).items()
                ],
                "metrics": len(there),
            }
        )
    return found


def _table(
    metrics: Sequence[str], rows: list[dict[str, Any]], winners: Mapping[str, Mapping[str, Best]]
) -> dict[str, Any]:
    return {
        "head": [{"short": short(m), "name": m, "arrow": arrow(m)} for m in metrics],
        "rows": [
            {
                "explainer": row["explainer"],
                "end": is_yardstick(row["explainer"]),
                "cells": [_cell(row, m, winners[m]) for m in metrics],
            }
            for row in rows
        ],
    }


def _cell(row: dict[str, Any], metric: str, winners: Mapping[str, Best]) -> dict[str, Any] | None:
    """A value and its interval as text; bar: their places on 0–64, where they are percentages."""
    found = row[metric]
    if found is None:
        return None
    winner = wins(row, metric, winners)
    texts = {name: shown(found[name], metric) for name in ("value", "ci_low", "ci_high")}
    bar = None
    if direction(metric).unit == "%":
        bar = {name: 1 + 0.62 * min(max(found[name], 0), 100) for name in texts}
    style = "best apart" if winner and winner.apart else "best" if winner else ""
    return {**texts, "images": found["images"], "style": style, "bar": bar}


def _encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
