"""`ttame verify` finds what a person does to a workspace by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from audited import audit_alone

from ttame_core.audits.record import Outcome, write_record
from ttame_core.audits.specification import open_spec
from ttame_core.audits.verify import repair, verify
from ttame_core.lake import Lake

NET = "dataset=drawn/backbone=net"
TAR, SIDECAR = (f"datasets/drawn/shards/test-000000.{kind}" for kind in ("tar", "parquet"))
MAPS = f"maps/{NET}/explainer=center/test-000000.parquet"
OTHER_MAPS = MAPS.replace("000000", "000001")
SCORES = f"scores/metric=confidence/{NET}/explainer=center/test-000000.parquet"
INDEX, LISTED = (f"datasets/drawn/{name}.parquet" for name in ("index", "shards"))
RECORD, LATER = (f"audits/small/2026010{day}T000000Z" for day in (1, 2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = audit_alone(tmp_path_factory.mktemp("verified"), ["center", "random"])
    lake, audit = Lake(folder / "workspace"), open_spec(folder / "audit.yaml")
    write_record(lake, audit, Outcome({}, datetime(2026, 1, 2, tzinfo=UTC)), lambda recorded: None)
    return folder / "workspace"


@pytest.fixture
def workspace(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "workspace"))


def test_a_whole_workspace_has_no_fault(whole: Path) -> None:
    assert verify(Lake(whole)) == []


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _edit(path: Path) -> None:
    """Write a Parquet file again, with its metadata and other rows."""
    pq.write_table(pq.read_table(path).slice(1), path)


def _other(path: Path) -> None:
    """Put the file of another shard in the place of one."""
    shutil.copy(path.with_name(path.name.replace("000000", "000001")), path)


def _rename(path: Path) -> None:
    path.rename(path.with_name(f"old-{path.name}"))


def _add(path: Path) -> None:
    path.with_name("notes.txt").write_text("mine")


def _words(path: Path) -> None:
    path.write_text(path.read_text().replace("net", "not"))


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        (TAR, _flip), (TAR, _cut), (TAR, Path.unlink), (TAR, _other),
        (SIDECAR, _flip), (SIDECAR, Path.unlink), (SIDECAR, _other),
        (INDEX, _edit), (INDEX, Path.unlink), (LISTED, _flip),
        (MAPS, _flip), (MAPS, _cut), (MAPS, _edit), (MAPS, _other), (MAPS, Path.unlink),
        (MAPS, _rename), (MAPS, _add),
        (SCORES, _flip), (SCORES, _edit), (SCORES, _other), (SCORES, Path.unlink),
        (f"{RECORD}/leaderboard.parquet", _edit), (f"{RECORD}/values.parquet", _edit),
        (f"{RECORD}/record.json", _words), (f"{RECORD}/record.json", Path.unlink),
        (f"{RECORD}/report.html", _words), (f"{RECORD}/report.html", _add),
        (f"{LATER}/spec.yaml", _words),
    ],
)  # fmt: skip
def test_every_damage_is_found(path: str, damage: Callable[[Path], None], workspace: Path) -> None:
    damage(workspace / path)
    faults = verify(Lake(workspace))
    assert faults
    assert any(
        Path(path).parent.as_posix() in fault.path or "center" in fault.path for fault in faults
    )


def test_a_record_that_is_gone_and_one_of_another_time(workspace: Path) -> None:
    before = shutil.copytree(workspace / RECORD, workspace.parent / "copy")
    shutil.rmtree(workspace / RECORD)
    (fault,) = verify(Lake(workspace))
    assert (fault.path, fault.state) == (f"{RECORD}/record.json", "missing")
    shutil.copytree(before, workspace / RECORD)
    assert verify(Lake(workspace)) == []


def test_repair_removes_what_is_made_again_and_nothing_else(workspace: Path) -> None:
    _flip(workspace / MAPS)
    _words(workspace / RECORD / "report.html")
    (workspace / "mine.txt").write_text("mine")
    lake = Lake(workspace)
    assert repair(lake, verify(lake)) == [MAPS]
    assert (workspace / "mine.txt").exists()
    assert (workspace / OTHER_MAPS).exists()
    assert {fault.path for fault in verify(lake)} > {MAPS, "mine.txt", f"{RECORD}/report.html"}
