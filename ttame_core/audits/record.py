"""Writing of an audit's record: audits/<name>/<time>/ with spec, values, changes, leaderboard."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import duckdb
import pyarrow as pa
import yaml

from ttame_core import plugins, spec
from ttame_core.audits.gates import NewRecord, find_changes, not_numbers
from ttame_core.audits.recorded import connect_audit, own_values
from ttame_core.data.index import count_rejected
from ttame_core.errors import UserError
from ttame_core.lake import AUDIT_TIME, Lake, audit_folder
from ttame_core.lake.query.boards import scores_state
from ttame_core.lake.query.connection import connect, leaderboard, read_leaderboard
from ttame_core.lake.records import (
    Previous,
    board_fingerprint,
    file_hashes,
    last_record,
    read_about,
    records,
    sealed,
)
from ttame_core.lake.schemas import (
    AUDIT_CHANGES,
    AUDIT_THUMBNAILS,
    AUDIT_VALUES,
    BACKBONE,
    LEADERBOARD,
)
from ttame_core.lake.selection import Selection
from ttame_core.stages.matched import read_sentences
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.roles import rivals, write_roles

PACKAGES = ("ttame", "torch", "timm", "torchvision", "grad-cam", "prefect", "duckdb", "pyarrow")
ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Outcome:
    """The end of an audit.

    Attributes:
        failures: the error of each backbone that failed, by its name.
        now: time of the end, in UTC.
        run: identity of the run; "" where it does not matter. A run that is tried again leaves no
            second record with the same failures.
    """

    failures: Mapping[str, str]
    now: datetime
    run: str = ""


@dataclass(frozen=True)
class Recorded:
    """The content of a record, from which its pictures and its page are made.

    Attributes:
        lake: the workspace.
        db: connection of the record, which sees its single values.
        audit: the spec.
        frozen: the spec's text in YAML.
        folder: folder of the record in the lake.
        now: time at which the audit ended, in UTC.
        board: leaderboard of the audit's maps and scores.
        failures: the error of each backbone that failed, by its name.
        refusals: rows of the view `refusals`: backbone, explainer, reason.
        changes: rows of the view `audit_changes`.
        versions: versions of packages, by name.
        matched: sentence by backbone on how classes of the data set were matched with its own.
        rejected: number of the data set's inputs that were rejected, by kind.
        before: the last record of the same audit, name/timestamp; None for the first one.
        since: for each backbone that is compared with an earlier record, that record.
    """

    lake: Lake
    db: duckdb.DuckDBPyConnection
    audit: spec.AuditSpec
    frozen: str
    folder: str
    now: datetime
    board: pa.Table
    failures: Mapping[str, str]
    refusals: Sequence[Mapping[str, str]]
    changes: Sequence[Mapping[str, Any]]
    versions: Mapping[str, str]
    matched: Mapping[str, str]
    rejected: Mapping[str, int] = field(default_factory=dict)
    before: str | None = None
    since: Mapping[str, str] = field(default_factory=dict)


def audit_board(lake: Lake, audit: spec.AuditSpec) -> pa.Table:
    """Return the leaderboard of the maps and scores that an audit asks for."""
    return leaderboard(lake, audit.dataset.name, Selection.of(audit))


def audit_refusals(lake: Lake, audit: spec.AuditSpec) -> list[dict[str, str]]:
    """Return an audit's rows of the view `refusals`: backbone, explainer, reason."""
    with connect(lake, selection=Selection.of(audit)) as db:
        return _refusals(db, audit)


def _refusals(db: duckdb.DuckDBPyConnection, audit: spec.AuditSpec) -> list[dict[str, str]]:
    names = [b.name for b in audit.backbones], [e.name for e in audit.explainers]
    rows = db.sql(
        "SELECT backbone, explainer, reason FROM refusals WHERE dataset = ? "
        "AND list_contains(?, backbone) AND list_contains(?, explainer) "
        "ORDER BY backbone, explainer",
        params=[audit.dataset.name, *names],
    )
    return rows.to_arrow_table().to_pylist()


def write_record(
    lake: Lake, audit: spec.AuditSpec, outcome: Outcome, render: Callable[[Recorded], None]
) -> str:
    """Write an audit's record.

    All its queries go through one connection.

    Args:
        lake: the workspace.
        audit: the spec.
        outcome: end of the audit.
        render: function that writes pictures and the page into the record's folder.

    Returns:
        The record's folder in the lake.
    """
    if outcome.run and (left := _left_by(lake, audit, outcome)):
        return left
    lake.remove_orphans(audit_folder(audit.name, "*"))
    before = last_record(lake, audit.name)
    now = _after(before, outcome.now)
    record = f"{audit.name}/{now.strftime(AUDIT_TIME)}"
    folder = f"audits/{record}"
    write_roles(lake, audit, [b.name for b in audit.backbones])
    whole = [b for b in audit.backbones if b.name not in outcome.failures]
    shown = audit.model_copy(update={"backbones": whole})  # rows of failed ones are old
    state = scores_state(lake, audit.dataset.name, Selection.of(shown))
    frozen, versions = freeze(audit), versions_now()
    provenance = Provenance(audit, lake)
    asked = provenance.explainers()
    matched = read_sentences(provenance)
    rejected = count_rejected(lake, audit.dataset.name)
    made_from: dict[str, Any] = {
        "audit": audit.name,
        "versions": versions,
        "dataset": audit.dataset.name,
        "backbones": [b.name for b in audit.backbones],
        "explainers": [e.name for e in audit.explainers],
        "weights": {b.name: provenance.weights(b) for b in whole},
        "failures": dict(outcome.failures),
        "classes": matched,
    }
    with connect_audit(lake, shown) as db:
        board = read_leaderboard(db, audit.dataset.name)
        with lake.create(f"{folder}/spec.yaml") as path:
            path.write_text(frozen, encoding="utf-8")
        _write_values(db, lake, shown, folder, made_from)
        refusals = _refusals(db, shown)
        absent = {(r["backbone"], r["explainer"]) for r in refusals}
        with own_values(db, lake, record):
            new = NewRecord(record, outcome.run, board, outcome.failures.keys(), absent)
            compared = find_changes(lake, db, audit, new)
            explained = whole if db.sql("FROM recorded LIMIT 1").fetchall() else []
            lost = {b.name: provenance.lost(b) for b in explained}
            maps = {(name, e.name): count[e.name] for name, count in lost.items() for e in asked}
            changes = [*not_numbers(board, maps, absent), *compared.rows]
            lake.write_parquet(f"{folder}/changes.parquet", changes, AUDIT_CHANGES, made_from)
            render(
                Recorded(
                    lake,
                    db,
                    audit,
                    frozen,
                    folder,
                    now,
                    board,
                    outcome.failures,
                    refusals,
                    changes,
                    versions,
                    matched,
                    rejected,
                    before.record if before else None,
                    compared.since,
                )
            )
    lake.write_json(
        f"{folder}/record.json",
        sealed(
            {
                **made_from,
                "run": outcome.run,
                **({"scores": state} if state else {}),
                "rejected": rejected,
                "board": board_fingerprint(board),
                "files": file_hashes(lake, folder),
                "previous": before.model_dump() if before else None,
            }
        ),
    )
    # The leaderboard is written last, so a record is whole where it exists.
    lake.write_parquet(f"{folder}/leaderboard.parquet", board, LEADERBOARD, made_from)
    return folder


def freeze(audit: spec.AuditSpec) -> str:
    """Return the text of a record's spec.yaml: all that an audit asks for, with the defaults."""
    return yaml.safe_dump(audit.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def versions_now() -> dict[str, str]:
    """Return the versions of Python and of the packages that a record names, by their names."""
    versions = {name: version(name) for name in PACKAGES} | plugins.versions()
    return {**versions, "python": platform.python_version()}


def check_complete(lake: Lake, audit: spec.AuditSpec, failed: Collection[str]) -> None:
    """Check that all files that an audit asks for are there, made from what its spec says now.

    Somebody may have removed files while the audit ran, or another audit may have replaced them.

    Args:
        lake: the workspace.
        audit: the spec.
        failed: names of the backbones that failed, whose files may be missing.

    Raises:
        UserError: a file is missing or outdated.
    """
    if audit.compute.address and audit.compute.precision == "auto":
        return  # what `auto` stands for on the machines of the cluster is not known here
    whole = [b for b in audit.backbones if b.name not in failed]
    provenance = Provenance(audit.model_copy(update={"backbones": whole}), lake, imports=False)
    if path := next(provenance.unmade(), None):
        raise UserError(
            f"{lake.path(path)} was removed or replaced while the audit ran: run the same command "
            "again"
        )


def failed_gates(lake: Lake, folder: str) -> list[dict[str, Any]]:
    """Return the rows of a record's changes for gates that do not hold."""
    changes = lake.read_table(f"{folder}/changes.parquet")
    return changes.filter(changes["failed"]).to_pylist()


def _after(before: Previous | None, now: datetime) -> datetime:
    """Return `now`, or, where the clock was set back, a second after the record before."""
    if before is None:
        return now
    last = datetime.strptime(before.record.split("/")[1], AUDIT_TIME).replace(tzinfo=UTC)
    return max(now, last + timedelta(seconds=1))


def _left_by(lake: Lake, audit: spec.AuditSpec, outcome: Outcome) -> str | None:
    """Return the last whole record of the same run, if the same backbones failed; else None."""
    for folder in reversed(records(lake, audit.name)):
        about = read_about(lake, folder)
        if about.run != outcome.run:
            return None
        if about.failures.keys() == outcome.failures.keys():
            return folder
    return None


def _write_values(
    db: duckdb.DuckDBPyConnection,
    lake: Lake,
    audit: spec.AuditSpec,
    folder: str,
    made_from: Mapping[str, Any],
) -> None:
    """Write single values and thumbnails of the images `recorded`, the same ones in every audit."""
    dataset, explainers = audit.dataset.name, [*(e.name for e in audit.explainers), BACKBONE]
    with (
        lake.create_parquet(f"{folder}/values.parquet", AUDIT_VALUES, made_from) as rows,
        lake.create_parquet(
            f"{folder}/thumbnails.parquet", AUDIT_THUMBNAILS, made_from
        ) as thumbnails,
    ):
        for backbone in sorted(b.name for b in audit.backbones):
            values = db.sql(
                "SELECT dataset, backbone, explainer, metric, key, value::FLOAT AS value "
                "FROM metric_values WHERE dataset = ? AND backbone = ? "
                "AND list_contains(?, explainer) "
                "AND md5(key) <= getvariable('last') AND key IN (FROM recorded) "
                "ORDER BY explainer, metric, key",
                params=[dataset, backbone, explainers],
            ).to_arrow_reader(ROWS_AT_ONCE)
            for batch in values:
                rows.write(batch.cast(AUDIT_VALUES))
            maps = db.sql(
                "SELECT backbone, explainer, key, thumbnail FROM shape "
                "WHERE dataset = ? AND backbone = ? AND list_contains(?, explainer) "
                "AND target = predicted AND key IN (FROM recorded) ORDER BY explainer, key",
                params=[dataset, backbone, rivals(audit)],
            ).to_arrow_reader(ROWS_AT_ONCE // 16)
            for batch in maps:
                thumbnails.write(batch.cast(AUDIT_THUMBNAILS))
