"""Artifacts of an audit on the Prefect page; the lake holds all that they show."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from PIL import Image
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.progress import quietly
from ttame_core import spec
from ttame_core.lake import Lake
from ttame_core.lake.query.units import shown
from ttame_core.report.answers import Answer
from ttame_core.report.rendering import contact_sheets, read_answers
from ttame_core.report.tables import arrow, headline, records, short, wide

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
    """Show the answers, the leaderboard and a gallery of an audit's record.

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
        key=artifact_key(audit.name, "leaderboard"),
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
            key=artifact_key(audit.name, "gallery"),
            markdown="\n\n".join([f"## {audit.name}", words, *pictures]),
            description=title,
        )
    answers = [_answered(answer) for answer in read_answers(lake, folder)]
    where = f"The whole report is the file {_link(lake, f'{folder}/report.html')}"
    quietly(
        create_markdown_artifact,
        key=artifact_key(audit.name, "report"),
        markdown="\n\n".join([f"# Audit {audit.name}", *answers, _board(board), where]),
        description=f"{title}\n\nBeside it lie leaderboard.parquet, spec.yaml, contact-sheet.png.",
    )


def artifact_key(audit: str, part: str) -> str:
    """Return an artifact's key, which names the audit in lower case, digits and dashes.

    Args:
        audit: name of the audit.
        part: report, leaderboard or gallery.
    """
    return f"{re.sub('[^a-z0-9]+', '-', audit.lower()).strip('-') or 'audit'}-{part}"


def _answered(answer: Answer) -> str:
    """Write an answer and its sentences in Markdown."""
    lines = "\n".join(f"- {_literally(line.words)}" for line in answer.lines)
    return f"## {answer.question}\n\n**{_literally(answer.short)}**\n\n{lines}".rstrip()


def _board(board: pa.Table) -> str:
    """Write the principal metrics of the leaderboard as a Markdown table, with directions."""
    metrics, rows = wide(board)
    if not rows:
        return "There is no leaderboard: no classifier has maps."
    chosen = headline(metrics)
    head = ["backbone", "explainer", *(f"{short(m)} {arrow(m)}".strip() for m in chosen)]
    table = [head, ["---", "---", *("---:" for _ in chosen)]]
    table += [
        [_literally(row["backbone"]), _literally(row["explainer"])]
        + [shown(row[m]["value"], m) if row[m] else "" for m in chosen]
        for row in rows
    ]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    return f"## Leaderboard\n\n{lines}\n\n↓ lower is better, ↑ higher is better."


def _literally(text: str) -> str:
    """Escape the characters that Markdown and HTML would take for their own."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def _inline(picture: Image.Image) -> str:
    picture.thumbnail((WIDEST, WIDEST))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _link(lake: Lake, path: str) -> str:
    return Path(lake.path(path)).as_uri() if lake.local else f"{lake.url.rstrip('/')}/{path}"
