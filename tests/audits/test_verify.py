"""`ttame verify` finds what a person does to a workspace by hand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from audited import audit_alone
from tiny import jpeg, shard_all

from ttame_core import spec
from ttame_core.audits.record import Outcome, write_record
from ttame_core.audits.specification import open_spec
from ttame_core.audits.verify import repair, verify
from ttame_core.lake import Lake
from ttame_core.lake.records import board_fingerprint, sealed
from ttame_core.lake.schemas import HEAD, HISTORY, LEADERBOARD, maps_schema

NET = "dataset=drawn/backbone=net"
TAR, SIDECAR = (f"datasets/drawn/shards/test-000000.{kind}" for kind in ("tar", "parquet"))
MAPS = f"maps/{NET}/explainer=center/test-000000.parquet"
OTHER_MAPS = MAPS.replace("000000", "000001")
SCORES = f"scores/metric=confidence/{NET}/explainer=center/test-000000.parquet"
ROLE = f"explainers/{NET}/explainer=center/role.parquet"
CLASSES = f"classes/{NET}/classes.parquet"
INDEX, LISTED, PLAN = (f"datasets/drawn/{name}.parquet" for name in ("index", "shards", "plan"))
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


def _swap(path: Path) -> None:
    """Exchange the files of two explainers."""
    other = Path(str(path).replace("explainer=center", "explainer=random"))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def _older(path: Path) -> None:
    """Put a file back that was made of other pictures, whole as it was then."""
    lake = Lake(path.parents[4])
    about = lake.metadata(MAPS)
    made_from = json.loads(about["ttame.made_from"]) | {"shard": "0" * 64}
    table = lake.read_table(MAPS)
    rows, schema = table.to_pylist(), table.schema.remove_metadata()
    lake.write_parquet(MAPS, rows, schema, made_from)


def _values(path: Path) -> None:
    """Put the single values of a record in the place of its leaderboard."""
    shutil.copy(path.with_name("values.parquet"), path)


def _earlier(path: Path) -> None:
    """Put the record of before in the place of the last one."""
    shutil.rmtree(path)
    shutil.copytree(path.with_name("20260101T000000Z"), path)


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        (TAR, _flip), (TAR, _cut), (TAR, Path.unlink), (TAR, _other),
        (SIDECAR, _flip), (SIDECAR, Path.unlink), (SIDECAR, _other),
        (INDEX, _edit), (INDEX, Path.unlink), (LISTED, _flip),
        (MAPS, _flip), (MAPS, _cut), (MAPS, _edit), (MAPS, _other), (MAPS, Path.unlink),
        (MAPS, _rename), (MAPS, _add), (MAPS, _swap), (MAPS, _older), (SCORES, _swap),
        (ROLE, _flip), (ROLE, _swap), (CLASSES, Path.unlink), (PLAN, Path.unlink), (PLAN, _cut),
        (LATER, _earlier),
        (SCORES, _flip), (SCORES, _edit), (SCORES, _other), (SCORES, Path.unlink),
        (f"{RECORD}/leaderboard.parquet", _edit), (f"{RECORD}/values.parquet", _edit),
        (f"{RECORD}/record.json", _words), (f"{RECORD}/record.json", Path.unlink),
        (f"{RECORD}/report.html", _words), (f"{RECORD}/report.html", _add),
        (f"{LATER}/spec.yaml", _words), (f"{LATER}/spec.yaml", _cut),
        (f"{LATER}/leaderboard.parquet", Path.unlink), (f"{LATER}/leaderboard.parquet", _values),
    ],
)  # fmt: skip
def test_every_damage_is_found(path: str, damage: Callable[[Path], None], workspace: Path) -> None:
    damage(workspace / path)
    faults = verify(Lake(workspace))
    assert faults
    assert any(
        Path(path).parent.as_posix() in fault.path or "center" in fault.path + fault.reason
        for fault in faults
    )


def test_a_link_in_the_place_of_a_file(workspace: Path, tmp_path: Path) -> None:
    elsewhere = (workspace / MAPS).rename(tmp_path / "elsewhere.parquet")
    (workspace / MAPS).symlink_to(elsewhere)
    assert [(f.path, f.state) for f in verify(Lake(workspace))] == [(MAPS, "foreign")]


def test_a_leaderboard_that_was_edited_with_all_its_hashes(workspace: Path) -> None:
    lake = Lake(workspace)
    path = f"{LATER}/leaderboard.parquet"
    rows = lake.read_table(path).to_pylist()
    changed = next(row for row in rows if row["value"])
    changed["value"] *= 1.001
    lake.write_parquet(path, rows, LEADERBOARD, json.loads(lake.metadata(path)["ttame.made_from"]))
    about = lake.read_json(f"{LATER}/record.json")
    about["board"] = board_fingerprint(lake.read_table(path))
    del about["seal"]
    lake.write_json(f"{LATER}/record.json", sealed(about))
    (fault,) = verify(Lake(workspace))
    assert (fault.path, fault.state) == (path, "damaged")
    assert changed["metric"] in fault.reason


def test_maps_of_another_head_with_the_same_settings(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    maps = f"maps/{NET}/explainer=ttame/test-000000.parquet"
    history = f"heads/{NET}/explainer=ttame/history.parquet"
    lake.write_parquet(SIDECAR, [], HISTORY, {}, sha256="0")
    lake.write_parquet(maps, [], maps_schema(1, 1), {"shard": "0"}, **{HEAD: "mine"})
    for head, stale in (("mine", False), ("another", True)):
        lake.write_parquet(history, [], HISTORY, {}, **{HEAD: head})
        faults = {fault.path: fault.reason for fault in verify(Lake(tmp_path))}
        assert ("its head has changed" in faults.get(maps, "")) == stale


@pytest.mark.parametrize("max_size", [None, 16])
def test_pictures_that_changed_with_equal_size_and_time(
    max_size: int | None, folder: Path, tmp_path: Path
) -> None:
    lake = Lake(tmp_path / "lake")
    source = {"kind": "folder", "path": str(folder)}
    shard_all(spec.Dataset(name="drawn", source=source, max_size=max_size), lake)
    assert verify(lake, pixels=True) == []
    picture = next(folder.rglob("*.jpg"))
    times = picture.stat().st_atime_ns, picture.stat().st_mtime_ns
    other = jpeg((40, 30), "blue", quality=1)
    picture.write_bytes(other.ljust(picture.stat().st_size, b"\0"))
    os.utime(picture, ns=times)
    assert verify(lake) == []
    (fault,) = verify(lake, pixels=True)
    assert fault.state == "stale"
    assert str(picture.relative_to(folder)) in fault.reason
    assert repair(lake, [fault]) == [fault.path]
    assert any(shard_all(spec.Dataset(name="drawn", source=source, max_size=max_size), lake))
    assert verify(lake, pixels=True) == []


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
