"""Rendering of a record: its page, the page's pictures, and contact sheets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import duckdb
from PIL import Image

from ttame_core import spec
from ttame_core.audits.record import Recorded
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect
from ttame_core.lake.selection import Selection
from ttame_core.report.album import exhibits
from ttame_core.report.answers import Answer, Line
from ttame_core.report.evidence import weigh
from ttame_core.report.findings import certain_winners, gather
from ttame_core.report.images import render_images
from ttame_core.report.page import render_page
from ttame_core.report.pictures import contact_sheet, find_samples
from ttame_core.report.verdict import judge
from ttame_core.stages.roles import rivals

ANSWERS = "answers.json"  # the answers at the top of a report, beside it
PICTURED = 8  # samples on the contact sheet
COMPARED = 5  # backbones with small contact sheets, and explainers on each, at most


def render(recorded: Recorded) -> None:
    """Write report.html, images.html, answers.json and pictures into a record's folder."""
    lake, db, audit = recorded.lake, recorded.db, recorded.audit
    whole = [b.name for b in audit.backbones if b.name not in recorded.failures]
    sheet = _sheet(lake, db, audit, whole, [e.name for e in audit.explainers], PICTURED)
    if sheet:
        with lake.create(f"{recorded.folder}/contact-sheet.png") as path:
            sheet.save(path, "PNG", compress_level=4)  # a third of the default's time, 4 % larger
    findings = gather(db, audit, recorded.board, recorded.folder.rsplit("/", 1)[1])
    pictures = exhibits(lake, db, audit.dataset.name, findings, recorded.folder)
    winners = certain_winners(db, recorded.board)
    verdict = judge(recorded, findings, winners, weigh(recorded, findings))
    lake.write_json(f"{recorded.folder}/{ANSWERS}", [asdict(own) for own in verdict.answers])
    page = render_page(recorded, findings, winners, pictures, verdict)
    with lake.create(f"{recorded.folder}/report.html") as path:
        path.write_text(page, encoding="utf-8")
    with lake.create(f"{recorded.folder}/images.html") as path:
        path.write_text(render_images(recorded, findings), encoding="utf-8")


def read_answers(lake: Lake, folder: str) -> list[Answer]:
    """Return the answers at the top of a record's report.

    Args:
        lake: the workspace.
        folder: folder of the record, within the lake.

    Returns:
        The answers; none where the record was written before they were kept.
    """
    if not lake.exists(f"{folder}/{ANSWERS}"):
        return []
    answers = lake.read_json(f"{folder}/{ANSWERS}")
    return [Answer(**{**own, "lines": [Line(**line) for line in own["lines"]]}) for own in answers]


def contact_sheets(
    lake: Lake, audit: spec.AuditSpec, backbones: Sequence[str]
) -> Iterator[tuple[str, Image.Image]]:
    """Draw a small contact sheet of each of the first few backbones, with the rivals' maps.

    Args:
        lake: the workspace.
        audit: the spec.
        backbones: names of the backbones that did not fail.

    Yields:
        The backbone's name and the picture; nothing for a backbone without maps.
    """
    compared = rivals(audit)[:COMPARED]
    with connect(lake, selection=Selection.of(audit)) as db:
        for backbone in backbones[:COMPARED]:
            if sheet := _sheet(lake, db, audit, [backbone], compared, PICTURED // 2):
                yield backbone, sheet


def _sheet(
    lake: Lake,
    db: duckdb.DuckDBPyConnection,
    audit: spec.AuditSpec,
    backbones: Sequence[str],
    explainers: Sequence[str],
    most: int,
) -> Image.Image | None:
    """Draw the first sample of each class in the order of the keys' hash; None without maps."""
    rows = db.execute(
        "SELECT arg_min(key, md5(key)) FROM samples WHERE dataset = ? AND key IN "
        "(SELECT key FROM maps WHERE dataset = ? AND list_contains(?, backbone) "
        "AND list_contains(?, explainer)) GROUP BY label ORDER BY label",
        [audit.dataset.name, audit.dataset.name, list(backbones), list(explainers)],
    ).fetchall()
    keys = [key for (key,) in rows[:most]]
    if not keys:
        return None
    return contact_sheet(find_samples(lake, db, keys, audit.dataset.name, backbones, explainers))
