"""An audit with nothing left to do is known by its record and its files, without an engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree

import pytest
import yaml

from ttame_core.audits import unchanged
from ttame_core.audits.record import Outcome, write_record
from ttame_core.audits.specification import open_spec
from ttame_core.audits.unchanged import unchanged_record
from ttame_core.lake import Lake

RECORD = "audits/small/20260101T000000Z"


@pytest.fixture
def workspace(audited: Path, tmp_path: Path) -> Path:
    """A copy, in which the files have the times that they had."""
    return copytree(audited / "workspace", tmp_path / "workspace")


def _found(audited: Path, workspace: Path, **sections: object) -> str | None:
    text = (audited / "audit.yaml").read_text().replace("${here}", str(audited))
    spec, changed = yaml.safe_load(text), workspace.with_name("changed.yaml")
    changed.write_text(yaml.safe_dump(spec | sections))
    return unchanged_record(Lake(workspace), open_spec(changed))


def test_the_record_holds(audited: Path, workspace: Path) -> None:
    assert _found(audited, workspace) == RECORD


@pytest.mark.parametrize(
    "sections",
    [
        {"name": "another"},
        {"explainers": ["gradcam"]},
        {"gates": [{"accuracy": {"at_least": 1}}]},
        {"maps": {"targets": "label"}},
    ],
)
def test_another_spec_is_audited(sections: dict, audited: Path, workspace: Path) -> None:
    assert _found(audited, workspace, **sections) is None


def _remove(path: Path) -> None:
    path.unlink()


def _flip(path: Path) -> None:
    """Change one bit, and neither size nor time."""
    data, about = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (_remove, "maps/*/*/explainer=center/*.parquet"),
        (_remove, "scores/metric=confidence/*/*/*/*.parquet"),
        (_remove, "explainers/*/*/explainer=center/*.parquet"),
        (_remove, "datasets/*/shards/*.parquet"),
        (_remove, "datasets/*/annotations.parquet"),
        (_remove, f"{RECORD}/report.html"),
        (_flip, f"{RECORD}/report.html"),
        (_flip, f"{RECORD}/record.json"),
        (_flip, "scores/metric=confidence/*/*/*/*.parquet"),
        (_flip, "datasets/*/index.parquet"),
    ],
)
def test_changed_files_are_audited(
    change: Callable[[Path], None], pattern: str, audited: Path, workspace: Path
) -> None:
    change(next(workspace.glob(pattern)))
    assert _found(audited, workspace) is None


def test_other_weights_are_audited(
    audited: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttame_core.stages.provenance.file_hash", lambda path: "of others")
    assert _found(audited, workspace) is None


def test_after_a_failure_it_is_audited(audited: Path, workspace: Path) -> None:
    outcome = Outcome({"net": "it is broken"}, datetime(2026, 1, 2, tzinfo=UTC))
    audit = open_spec(audited / "audit.yaml")
    write_record(Lake(workspace), audit, outcome, lambda recorded: None)
    assert _found(audited, workspace) is None


def test_with_other_versions_of_packages_it_is_audited(
    audited: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "versions_now", lambda: {"torch": "0"})
    assert _found(audited, workspace) is None
