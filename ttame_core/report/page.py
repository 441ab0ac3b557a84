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

from ttame_core.report.tables import LOWER_IS_BETTER, NOT_RIVALS, best, short, wide

JPEG_QUALITY = 88


def render_page(
    title: str,
    when: str,
    dataset: str,
    board: pa.Table,
    warnings: Sequence[str],
    failures: Mapping[str, str],
    picture: Image.Image | None,
    spec: str,
    versions: Mapping[str, str],
) -> str:
    """The page. board: of the audit's backbones. failures: reason by backbone. spec: YAML."""
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
        metrics=[
            {"short": short(m), "arrow": "↓" if m.startswith(LOWER_IS_BETTER) else "↑"}
            for m in metrics
        ],
        backbones=_backbones(metrics, rows),
        warnings=warnings,
        failures=[{"backbone": name, "reason": reason} for name, reason in failures.items()],
        picture=_encoded(picture) if picture else "",
        spec=spec,
        versions="\n".join(f"{name} {version}" for name, version in versions.items()),
    )


def _backbones(metrics: Sequence[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    winners = {metric: best(rows, metric) for metric in metrics}
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row["backbone"]
        own = {"accuracy": row["accuracy"], "discrimination": row["discrimination"]}
        backbone = found.setdefault(name, {"name": name, "rows": [], **own})
        end = row["explainer"] in NOT_RIVALS
        cells = [
            row[m]
            and {**row[m], "best": not end and round(row[m]["value"], 1) == winners[m].get(name)}
            for m in metrics
        ]
        backbone["rows"].append({"explainer": row["explainer"], "end": end, "cells": cells})
    return list(found.values())


def _encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
