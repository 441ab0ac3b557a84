"""The record of one audit: audits/<name>/<time>/ with spec, leaderboard, changes and page."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import yaml
from PIL import Image

from ttame_core import plugins, spec
from ttame_core.audits.gates import find_changes
from ttame_core.lake import AUDIT_TIME, Lake, audit_folder
from ttame_core.lake.query.boards import scores_state
from ttame_core.lake.query.connection import connect, leaderboard
from ttame_core.lake.query.directions import is_yardstick
from ttame_core.lake.schemas import AUDIT_CHANGES, AUDIT_THUMBNAILS, AUDIT_VALUES, LEADERBOARD
from ttame_core.lake.selection import Meant
from ttame_core.report.album import exhibits
from ttame_core.report.findings import RECORDED, certain_winners, gather, keep_recorded
from ttame_core.report.page import render_page
from ttame_core.report.pictures import contact_sheet, find_samples
from ttame_core.report.tables import BACKBONE, refusals, warnings
from ttame_core.stages.provenance import Provenance

PACKAGES = ("ttame", "torch", "timm", "torchvision", "grad-cam", "prefect", "duckdb", "pyarrow")
PICTURED = 8  # samples on the contact sheet
COMPARED = 5  # backbones, and explainers of each, on the small ones
ROWS_AT_ONCE = 2**16


def audit_board(lake: Lake, audit: spec.AuditSpec) -> pa.Table:
    """The leaderboard of the maps and scores that an audit means."""
    return leaderboard(lake, audit.dataset.name, Meant.by(audit))


def audit_refusals(lake: Lake, audit: spec.AuditSpec) -> list[dict[str, str]]:
    """Rows of the view `refusals` of an audit: backbone, explainer, reason."""
    names = [b.name for b in audit.backbones], [e.name for e in audit.explainers]
    with connect(lake) as db:
        found = db.sql(
            "SELECT backbone, explainer, reason FROM refusals WHERE dataset = ? "
            "AND list_contains(?, backbone) AND list_contains(?, explainer) "
            "ORDER BY backbone, explainer",
            params=[audit.dataset.name, *names],
        )
        return found.to_arrow_table().to_pylist()


def write_record(
    lake: Lake,
    audit: spec.AuditSpec,
    failures: Mapping[str, str],
    now: datetime,
    run: str = "",
) -> str:
    """Write an audit's record and return its folder in the lake.

    failures: reason by backbone. now: UTC. run: of which this is the audit; one that has left a
    record of the same failures and is tried again keeps it.
    """
    if run and (there := _left_by(lake, audit, failures, run)):
        return there
    lake.remove_orphans(audit_folder(audit.name, "*"))
    timestamp = now.strftime(AUDIT_TIME)
    folder = audit_folder(audit.name, timestamp)
    state = scores_state(lake, audit.dataset.name, Meant.by(audit))
    board = audit_board(lake, audit)
    frozen = yaml.safe_dump(audit.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    versions = {name: version(name) for name in PACKAGES} | plugins.versions()
    versions["python"] = platform.python_version()
    whole = [b.name for b in audit.backbones if b.name not in failures]
    explainers = [e.name for e in audit.explainers]
    provenance = Provenance(audit, lake)
    made_from: dict[str, Any] = {
        "audit": audit.name,
        "versions": versions,
        "dataset": audit.dataset.name,
        "backbones": [b.name for b in audit.backbones],
        "explainers": explainers,
        "weights": {b.name: provenance.weights(b) for b in audit.backbones if b.name in whole},
        "failures": dict(failures),
    }
    if keys := _pictured(lake, audit, whole, explainers):
        samples = find_samples(lake, keys, audit.dataset.name, whole, explainers)
        with lake.create(f"{folder}/contact-sheet.png") as path:
            contact_sheet(samples).save(path, "PNG")
    with lake.create(f"{folder}/spec.yaml") as path:
        path.write_text(frozen, encoding="utf-8")
    told = {"run": run} | ({"scores": state} if state else {})
    lake.write_json(f"{folder}/record.json", {**made_from, **told})
    _write_values(lake, audit, folder, made_from)
    refused = audit_refusals(lake, audit)
    absent = {(r["backbone"], r["explainer"]) for r in refused}
    changes = find_changes(lake, audit, f"{audit.name}/{timestamp}", board, failures, absent, run)
    lake.write_parquet(f"{folder}/changes.parquet", changes, AUDIT_CHANGES, made_from)
    found = gather(lake, audit, board, timestamp)
    page = render_page(
        audit,
        when=now.strftime("%Y-%m-%d %H:%M UTC"),
        board=board,
        findings=found,
        winners=certain_winners(lake, board, f"{folder}/values.parquet"),
        exhibits=exhibits(lake, audit.dataset.name, found, folder),
        failures=failures,
        refusals=refusals(refused),
        warnings=warnings(board, audit.evaluation.minimum_discrimination),
        changes=changes,
        frozen=frozen,
        versions=versions,
    )
    with lake.create(f"{folder}/report.html") as path:
        path.write_text(page, encoding="utf-8")
    # The last: a record is whole where this is.
    lake.write_parquet(f"{folder}/leaderboard.parquet", board, LEADERBOARD, made_from)
    return folder


def contact_sheets(
    lake: Lake, audit: spec.AuditSpec, backbones: Sequence[str]
) -> Iterator[tuple[str, Image.Image]]:
    """A small contact sheet of each of the first few backbones, with the rivals' maps."""
    rivals = [e.name for e in audit.explainers if not is_yardstick(e.name)][:COMPARED]
    for backbone in backbones[:COMPARED]:
        if keys := _pictured(lake, audit, [backbone], rivals)[: PICTURED // 2]:
            samples = find_samples(lake, keys, audit.dataset.name, [backbone], rivals)
            yield backbone, contact_sheet(samples)


def failed_gates(lake: Lake, folder: str) -> list[dict[str, Any]]:
    """Rows of a record's changes, of gates that do not hold."""
    changes = lake.read_table(f"{folder}/changes.parquet")
    return changes.filter(changes["failed"]).to_pylist()


def _left_by(
    lake: Lake, audit: spec.AuditSpec, failures: Mapping[str, str], run: str
) -> str | None:
    """The whole record that this run has left last, where the same backbones failed."""
    for path in reversed(lake.glob(f"audits/{audit.name}/*/leaderboard.parquet")):
        folder = path.rsplit("/", 1)[0]
        about = lake.read_json(f"{folder}/record.json")
        if about.get("run") != run:
            return None
        if about["failures"].keys() == failures.keys():
            return folder
    return None


def _write_values(lake: Lake, audit: spec.AuditSpec, folder: str, made_from: Any) -> None:
    """Values and thumbnails of the images with the lowest hash: the same ones in every audit."""
    dataset, explainers = audit.dataset.name, [*(e.name for e in audit.explainers), BACKBONE]
    with (
        connect(lake, meant=Meant.by(audit)) as db,
        lake.create_parquet(f"{folder}/values.parquet", AUDIT_VALUES, made_from) as rows,
        lake.create_parquet(
            f"{folder}/thumbnails.parquet", AUDIT_THUMBNAILS, made_from
        ) as thumbnails,
    ):
        keep_recorded(db, dataset, audit.maps.split, RECORDED)
        for backbone in sorted(b.name for b in audit.backbones):
            found = db.sql(
                "SELECT dataset, backbone, explainer, metric, key, value::FLOAT AS value "
                "FROM metric_values WHERE dataset = ? AND backbone = ? "
                "AND list_contains(?, explainer) "
                "AND md5(key) <= getvariable('last') AND key IN (FROM recorded) "
                "ORDER BY explainer, metric, key",
                params=[dataset, backbone, explainers],
            ).to_arrow_reader(ROWS_AT_ONCE)
            for batch in found:
                rows.write(batch.cast(AUDIT_VALUES))
            found = db.sql(
                "SELECT backbone, explainer, key, thumbnail FROM shape "
                "WHERE dataset = ? AND backbone = ? AND list_contains(?, explainer) "
                "AND target = predicted AND key IN (FROM recorded) ORDER BY explainer, key",
                params=[dataset, backbone, [e for e in explainers if not is_yardstick(e)]],
            ).to_arrow_reader(ROWS_AT_ONCE // 16)
            for batch in found:
                thumbnails.write(batch.cast(AUDIT_THUMBNAILS))


def _pictured(
    lake: Lake, audit: spec.AuditSpec, backbones: Sequence[str], explainers: Sequence[str]
) -> list[str]:
    """Keys for the contact sheet: the first sample of each class in the order of the keys' hash."""
    with connect(lake, meant=Meant.by(audit)) as db:
        rows = db.execute(
            "SELECT arg_min(key, md5(key)) FROM samples WHERE dataset = ? AND key IN "
            "(SELECT key FROM maps WHERE dataset = ? AND list_contains(?, backbone) "
            "AND list_contains(?, explainer)) GROUP BY label ORDER BY label",
            [audit.dataset.name, audit.dataset.name, list(backbones), list(explainers)],
        ).fetchall()
    return [key for (key,) in rows[:PICTURED]]
