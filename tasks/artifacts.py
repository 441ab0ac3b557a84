"""Artifacts of an audit on the Prefect page; the lake holds all that they show."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from PIL import Image
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from tasks.progress import quietly
from ttame_core import spec
from ttame_core.lake import Lake
from ttame_core.report.rendering import contact_sheets
from ttame_core.report.tables import records

WIDEST = 1000  # the longer side of a picture in pixels, at most
QUALITY = 75  # of WebP, up to 100


def leave_artifacts(
    lake: Lake,
    audit: spec.AuditSpec,
    folder: str,
    board: pa.Table,
    backbones: Sequence[str],
    notes: Sequence[str],
) -> None:
    """Show leaderboard, gallery and a link to the report of an audit's record.

    Args:
        lake: the workspace.
        audit: the spec.
        folder: folder of the record, within the lake.
        board: the leaderboard, a row for each metric of a backbone and explainer.
        backbones: names of the backbones that did not fail, for the gallery.
        notes: sentences that are read before the leaderboard.
    """
    title = f"Audit {audit.name}: {lake.path(folder)}"
    quietly(
        create_table_artifact,
        key="leaderboard",
        table=records(board),
        description="\n\n".join([title, *notes]),
    )
    pictures = [
        f"### {backbone}\n\n![maps of {backbone}]({_inline(sheet)})"
        for backbone, sheet in contact_sheets(lake, audit, backbones)
    ]
    if pictures:
        words = "The image with its boxes, then each explainer's map; all else is in the report."
        quietly(
            create_markdown_artifact,
            key="gallery",
            markdown="\n\n".join([f"## {audit.name}", words, *pictures]),
            description=title,
        )
    quietly(
        create_link_artifact,
        key="report",
        link=_link(lake, f"{folder}/report.html"),
        link_text=f"Report of {audit.name}",
        description=f"{title}\n\nBeside it lie leaderboard.parquet, spec.yaml, contact-sheet.png.",
    )


def _inline(picture: Image.Image) -> str:
    picture.thumbnail((WIDEST, WIDEST))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _link(lake: Lake, path: str) -> str:
    return Path(lake.path(path)).as_uri() if lake.local else f"{lake.url.rstrip('/')}/{path}"
