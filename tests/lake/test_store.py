"""Files appear whole or not at all, and say what made them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttame_core.errors import UserError
from ttame_core.lake import Lake, fingerprint
from ttame_core.lake.store import is_abandoned

SCHEMA = pa.schema([("a", pa.int32())])


@pytest.fixture(params=["local", "memory", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "s3":
        return Lake(request.getfixturevalue("s3").url)
    return Lake(tmp_path / "lake" if request.param == "local" else f"memory://{tmp_path.name}")


def test_a_parquet_file_knows_what_made_it(lake: Lake) -> None:
    made_from = {"inputs": ["x"], "epochs": 2}
    assert not lake.is_current("some/file.parquet", made_from)
    lake.write_parquet("some/file.parquet", [{"a": 1}, {"a": 2}], SCHEMA, made_from, note="hello")
    assert lake.is_current("some/file.parquet", {"epochs": 2, "inputs": ["x"]})
    assert not lake.is_current("some/file.parquet", {"epochs": 3, "inputs": ["x"]})
    assert lake.read_table("some/file.parquet").to_pylist() == [{"a": 1}, {"a": 2}]
    assert lake.metadata("some/file.parquet")["note"] == "hello"
    assert lake.parquet_rows("some/file.parquet") == 2
    assert lake.glob("some/*") == ["some/file.parquet"]
    lake.remove("some/file.parquet")
    assert not lake.exists("some/file.parquet")
    lake.remove("some/file.parquet")  # a second time is no error


def test_what_follows_the_last_wildcard_is_looked_for_by_name(lake: Lake) -> None:
    for folder in ("scores/metric=a/x", "scores/metric=b/x", "scores/metric=c/y", "other/x"):
        for name in ("0", "1"):
            lake.write_json(f"{folder}/{name}.json", 0)
    lake.write_json("scores/metric=d", 0)  # a file where others have a folder
    with patch.object(lake.fs, "ls", side_effect=lake.fs.ls) as listed:
        found = lake.glob("scores/*/x/1.json")
    assert found == ["scores/metric=a/x/1.json", "scores/metric=b/x/1.json"]
    assert not any(str(call.args[0]).rstrip("/").endswith("/x") for call in listed.call_args_list)
    assert lake.glob("scores/*/x/*.json") == [
        f"scores/metric={metric}/x/{name}.json" for metric in "ab" for name in "01"
    ]
    assert lake.glob("scores/*/z/1.json") == lake.glob("nothing/*/1.json") == []
    assert lake.glob("other/x/1.json") == ["other/x/1.json"]
    assert lake.glob("other/x/2.json") == []
    assert lake.glob("scores/metric=?") == [f"scores/metric={metric}" for metric in "abcd"]


def test_row_groups_are_as_small_as_their_maps_are_large(lake: Lake) -> None:
    schema = pa.schema([("map", pa.list_(pa.float16(), 2**16))])
    rows = pa.record_batch([pa.nulls(32, schema.field(0).type)], schema=schema)
    with lake.create_parquet("f.parquet", schema, "maps") as writer:
        for _ in range(9):
            writer.write(rows)
    with lake.open("f.parquet") as stream:
        file = pq.ParquetFile(stream)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [64, 64, 64, 64, 32]


def test_what_fails_leaves_the_old_file_and_nothing_else(lake: Lake) -> None:
    lake.write_parquet("f.parquet", [{"a": 1}], SCHEMA, "old")
    with (
        pytest.raises(RuntimeError, match="half way"),
        lake.create_parquet("f.parquet", SCHEMA, "new"),
    ):
        raise RuntimeError("half way")
    assert lake.is_current("f.parquet", "old")
    assert lake.glob("*") == ["f.parquet"]


def test_fingerprints_tell_content_and_not_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"b": [1, 2]}) != fingerprint({"b": [2, 1]})


def test_broken_parquet_is_not_current(lake: Lake) -> None:
    with lake.create("f.parquet") as path:
        path.write_bytes(b"PAR1 but no more")
    assert not lake.is_current("f.parquet", "x")
    with lake.create("empty.parquet") as path:
        path.touch()
    assert not lake.is_current("empty.parquet", "x")


def test_nothing_outside_the_workspace(lake: Lake) -> None:
    for path in ("../x", "a/../../x", "/etc/passwd"):
        with pytest.raises(UserError, match="outside the workspace"):
            lake.path(path)


def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), Lake(tmp_path / "file").create("a/b"):
        pass
    with pytest.raises(UserError, match="nosuch"):
        Lake("nosuch://bucket")


WRITER = """
import sys, time
from ttame_core.lake import Lake
with Lake(sys.argv[1]).create("folder/file.bin") as path:
    path.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "folder/file.bin").exists()
    assert len(list((tmp_path / "folder").iterdir())) == 1  # the orphan
    with Lake(tmp_path).create("folder/file.bin") as path:
        path.write_bytes(b"whole")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["file.bin"]
    assert (tmp_path / "folder/file.bin").read_bytes() == b"whole"


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER.replace("60", "3"), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    with Lake(tmp_path).create("folder/file.bin") as path:
        path.write_bytes(b"first")
    assert process.wait(30) == 0
    time.sleep(0)
    assert (tmp_path / "folder/file.bin").read_bytes() == b"half"  # the later one, whole


def test_what_is_half_written_for_a_day_is_no_ones(tmp_path: Path) -> None:
    young, old = (tmp_path / f"folder/.{name}.bin.writing-elsewhere-1-a" for name in ("b", "c"))
    young.parent.mkdir()
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    Lake(tmp_path).remove_orphans("*")
    assert [p for p in (young, old) if p.exists()] == [young]


def test_nothing_is_changed_behind_a_link(tmp_path: Path) -> None:
    elsewhere, lake = tmp_path / "elsewhere", Lake(tmp_path / "root")
    elsewhere.mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")  # the root may be one
    (tmp_path / "root/maps").symlink_to(elsewhere)
    for name in ("mine.parquet", ".mine.parquet.writing-elsewhere-1-a"):
        (elsewhere / name).write_text("mine")
        os.utime(elsewhere / name, (0, 0))
    for path in ("maps/new.parquet", "maps/mine.parquet", "maps/below/new.parquet"):
        with pytest.raises(UserError, match="root/maps is a link"), lake.create(path):
            pass
        with pytest.raises(UserError, match="root/maps is a link"):
            lake.remove(path)
    lake.remove_orphans("*")
    assert len(list(elsewhere.iterdir())) == 2
    lake.write_parquet("fine/file.parquet", [], SCHEMA, "x")
    assert (tmp_path / "real/fine/file.parquet").exists()


ELSEWHERE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
HALF_WAY = """
import sys
from ttame_core.lake import Lake
with Lake(sys.argv[1]).create("folder/x.parquet"):
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_writer_of_another_container_is_not_taken_for_dead(tmp_path: Path) -> None:
    """A container may share host name and workspace; its process numbers say nothing here."""
    try:
        subprocess.run([*ELSEWHERE, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine makes no process namespaces")
    writer = subprocess.Popen(
        [*ELSEWHERE, sys.executable, "-c", HALF_WAY, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what it was writing is removed below
    )
    assert writer.stdout is not None
    assert writer.stdin is not None
    assert writer.stdout.readline() == b"writing\n"
    (unfinished,) = (tmp_path / "folder").iterdir()
    pid = 2**22 + 1  # no process here has such a number
    unfinished = unfinished.rename(re.sub(r"-\d+-", f"-{pid}-", str(unfinished)))
    lake = Lake(tmp_path)
    lake.write_parquet("folder/x.parquet", [], SCHEMA, "x")
    lake.remove_orphans("*")
    assert unfinished.exists()
    os.utime(unfinished, (0, 0))  # nothing has been written to it for a day
    lake.remove_orphans("*")
    assert not unfinished.exists()
    writer.stdin.close()
    writer.wait()


def test_files_that_only_look_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in (".x.parquet.writing-x", ".x.parquet.writing-a-b-c", ".x.parquet.writing-"):
        (folder / name).write_text("mine")
        os.utime(folder / name, (0, 0))
    lake = Lake(tmp_path)
    lake.write_parquet("folder/x.parquet", [], SCHEMA, "x")
    lake.remove_orphans("*")
    assert len(list(folder.iterdir())) == 4
    assert not is_abandoned(".x.parquet.writing-x", 0)
