"""`ttame verify` finds what a person does to a workspace by hand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from audited import audit_alone
from damages import cut, delete, edit, flip, inflate, put_back, rename, replace, reword, swap
from tiny import jpeg, shard_all

from ttame_core import spec
from ttame_core.audits.record import Outcome, write_record
from ttame_core.audits.specification import open_spec
from ttame_core.audits.verify import last_records, repair, verify
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect, run_query
from ttame_core.lake.records import board_fingerprint, sealed
from ttame_core.lake.schemas import HEAD, HISTORY, LEADERBOARD, maps_schema
from ttame_core.lake.selection import Selection

NET = "dataset=drawn/backbone=net"
TAR, SIDECAR = (f"datasets/drawn/shards/test-000000.{kind}" for kind in ("tar", "parquet"))
MAPS = f"maps/{NET}/explainer=center/test-000000.parquet"
OTHER_MAPS = MAPS.replace("000000", "000001")
NOTES = f"maps/{NET}/notes.txt"
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


def _add(path: Path) -> None:
    """Put a file of others in the place of one that is not there."""
    path.write_text("mine")


def _values(path: Path) -> None:
    """Put the single values of a record in the place of its leaderboard."""
    shutil.copy(path.with_name("values.parquet"), path)


def _earlier(path: Path) -> None:
    """Put the record of before in the place of the last one."""
    shutil.rmtree(path.parent)
    shutil.copytree(path.parent.with_name("20260101T000000Z"), path.parent)


@pytest.mark.parametrize(
    ("path", "damage"),
    [
        (TAR, flip), (TAR, cut), (TAR, delete), (TAR, replace),
        (SIDECAR, flip), (SIDECAR, delete), (SIDECAR, replace),
        (INDEX, edit), (INDEX, delete), (LISTED, flip),
        (MAPS, flip), (MAPS, cut), (MAPS, edit), (MAPS, replace), (MAPS, delete),
        (MAPS, rename), (NOTES, _add), (MAPS, swap), (MAPS, put_back), (SCORES, swap),
        (ROLE, flip), (ROLE, swap), (CLASSES, delete), (PLAN, delete), (PLAN, cut),
        (f"{LATER}/leaderboard.parquet", _earlier), (ROLE, delete),
        (SCORES, flip), (SCORES, edit), (SCORES, replace), (SCORES, delete),
        (f"{RECORD}/leaderboard.parquet", edit), (f"{RECORD}/values.parquet", edit),
        (f"{RECORD}/record.json", reword), (f"{RECORD}/record.json", delete),
        (f"{RECORD}/report.html", reword), (f"{RECORD}/notes.txt", _add),
        (f"{LATER}/spec.yaml", reword), (f"{LATER}/spec.yaml", cut),
        (f"{LATER}/leaderboard.parquet", delete), (f"{LATER}/leaderboard.parquet", _values),
        (INDEX, inflate), (LISTED, inflate), (PLAN, inflate), (MAPS, inflate), (SCORES, inflate),
        (f"{LATER}/leaderboard.parquet", inflate),
    ],
)  # fmt: skip
def test_every_damage_is_named(path: str, damage: Callable[[Path], None], workspace: Path) -> None:
    damage(workspace / path)
    assert path in {fault.path for fault in verify(Lake(workspace))}


def test_a_link_in_the_place_of_a_file(workspace: Path, tmp_path: Path) -> None:
    elsewhere = (workspace / MAPS).rename(tmp_path / "elsewhere.parquet")
    (workspace / MAPS).symlink_to(elsewhere)
    assert [(f.path, f.state) for f in verify(Lake(workspace))] == [(MAPS, "foreign")]


@pytest.mark.parametrize("path", [MAPS, TAR, f"{LATER}/record.json", f"maps/{NET}/pipe"])
def test_a_pipe_in_the_place_of_a_file(path: str, workspace: Path) -> None:
    (workspace / path).unlink(missing_ok=True)
    os.mkfifo(workspace / path)
    assert (path, "foreign") in {(f.path, f.state) for f in verify(Lake(workspace))}
    for read in (Lake(workspace).sha256, Lake(workspace).read_bytes, Lake(workspace).read_table):
        with pytest.raises(UserError, match="no plain file"):
            read(path)
    assert Lake(workspace).metadata(path) == {}


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _endless(path: Path) -> None:
    """Make a file of 3 GB that takes no room."""
    with path.open("wb") as stream:
        stream.truncate(3 * 10**9)


def _deep(path: Path) -> None:
    path.write_bytes(b"[" * 200_000)


@pytest.mark.parametrize("make", [_loop, _endless, _deep])
@pytest.mark.parametrize("path", [f"{LATER}/record.json", f"heads/{NET}/explainer=mine/spec.json"])
def test_no_text_of_a_stranger_stops_verify(
    path: str, make: Callable[[Path], None], workspace: Path
) -> None:
    (workspace / path).unlink(missing_ok=True)
    (workspace / path).parent.mkdir(parents=True, exist_ok=True)
    make(workspace / path)
    assert path in {fault.path for fault in verify(Lake(workspace))}


@pytest.mark.parametrize("path", [MAPS, f"{LATER}/record.json", f"{LATER}/leaderboard.parquet"])
def test_a_folder_in_the_place_of_a_file(path: str, workspace: Path) -> None:
    (workspace / path).unlink()
    (workspace / path).mkdir()
    assert path in {fault.path for fault in verify(Lake(workspace))}
    with pytest.raises(UserError, match="no plain file"):
        Lake(workspace).read_table(path)


def test_a_spec_of_a_stranger_does_not_expand_without_end(workspace: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (workspace / LATER / "spec.yaml").write_text("\n".join(lines))
    about = Lake(workspace).read_json(f"{LATER}/record.json")
    about["files"]["spec.yaml"] = Lake(workspace).sha256(f"{LATER}/spec.yaml")
    del about["seal"]
    Lake(workspace).write_json(f"{LATER}/record.json", sealed(about))
    (fault,) = verify(Lake(workspace))
    assert "with its aliases" in fault.reason


def test_files_of_others_end_neither_a_query_nor_verify(workspace: Path) -> None:
    board = run_query(Lake(workspace), "FROM leaderboard ORDER BY ALL")
    foreign = [
        "history.parquet",
        "heads/history.parquet",
        "datasets/mine.parquet",
        "maps/test-000000.parquet",
        "maps/my/own/folder/test-000000.parquet",
        f"maps/{NET}/my-folder/test-000000.parquet",
        f"scores/metric=confidence/{NET}/my-folder/test-000000.parquet",
        f"explainers/{NET}/my-folder/role.parquet",
    ]
    for path in foreign:
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(workspace / MAPS, workspace / path)
    lake = Lake(workspace)
    assert [(f.path, f.state) for f in verify(lake)] == [(p, "foreign") for p in sorted(foreign)]
    assert run_query(lake, "FROM leaderboard ORDER BY ALL").equals(board)
    spec_file = next((workspace / "audits").glob("*/*/spec.yaml"))
    with connect(lake, selection=Selection.of(open_spec(spec_file))) as db:
        assert db.sql("FROM leaderboard").fetchall()


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


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen")
def test_a_record_is_signed_as_the_page_says(whole: Path, tmp_path: Path) -> None:
    key, page = tmp_path / "key", Path(__file__).parents[2] / "docs/reliability.md"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (tmp_path / "signers").write_text(f"auditor@example.org {(tmp_path / 'key.pub').read_text()}")
    (tmp_path / "workspace").symlink_to(whole)
    (last,) = last_records(Lake(whole))
    record = whole / "audits" / last.record / "record.json"
    assert hashlib.sha256(record.read_bytes()).hexdigest() == last.sha256
    for command in re.findall(r"^    (ssh-keygen .*)$", page.read_text(), re.M):
        given = command.replace("~/.ssh/id_ed25519", str(key)).replace("NAME/TIME", last.record)
        subprocess.run(given, shell=True, cwd=tmp_path, check=True)
    given = given.replace(str(last.record), f"small/{RECORD.split('/')[-1]}")
    assert subprocess.run(given, shell=True, cwd=tmp_path, capture_output=True).returncode
    assert last_records(Lake(whole), "small") == [last]


def test_repair_removes_what_is_made_again_and_nothing_else(workspace: Path) -> None:
    flip(workspace / MAPS)
    reword(workspace / RECORD / "report.html")
    (workspace / "mine.txt").write_text("mine")
    lake = Lake(workspace)
    assert repair(lake, verify(lake)) == [MAPS]
    assert (workspace / "mine.txt").exists()
    assert (workspace / OTHER_MAPS).exists()
    assert {fault.path for fault in verify(lake)} == {MAPS, "mine.txt", f"{RECORD}/report.html"}
