"""What a workspace holds, counted from names and sizes; in a folder and on an object store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stores import Store

from ttame_core.lake import Lake, store
from ttame_core.lake.contents import StageFiles, stage_files

OF = "dataset=d/backbone=b/explainer=e"
SIZES = {
    "datasets/d/index.parquet": 1,
    "datasets/d/shards/test-000000.tar": 10,
    "datasets/d/shards/test-000000.parquet": 100,
    "datasets/d/shards/test-000001.tar": 1000,  # its mark is not there: it is not whole
    "backbones/dataset=d/backbone=b/checkpoint.pt": 3,
    f"heads/{OF}/head.safetensors": 20,
    f"heads/{OF}/history.parquet": 2,
    f"maps/{OF}/test-000000.parquet": 5,
    f"maps/{OF}/test-000001.parquet": 6,
    f"scores/metric=cost/{OF}/test-000000.parquet": 7,
    f"scores/metric=shape/{OF}/test-000000.parquet": 8,
    f"scores/metric=shape/{OF}/test-000001.parquet": 9,
    f"scores/metric=confidence/{OF}/test-000000.parquet": 30,
    "pasted/dataset=d/backbone=b/pasted.parquet": 70,
    "audits/a/20260101T000000Z/leaderboard.parquet": 40,
    "audits/a/20260101T000000Z/pictures/x.webp": 50,
    "audits/a/20260102T000000Z/report.html": 60,  # not whole
}
EXPECTED = [
    StageFiles("shard", "d", done=1, bytes=1111),
    StageFiles("fit", "d", "b", bytes=3, begun=True),
    StageFiles("train", "d", "b", "e", done=1, bytes=22),
    StageFiles("explain", "d", "b", "e", done=2, bytes=5 + 6 + 7, splits={"test"}),
    StageFiles("evaluate", "d", "b", "e", done=2, bytes=8 + 9 + 30, splits={"test"}),
    StageFiles("paste", "d", "b", done=1, bytes=70),
    StageFiles("report", "a", done=1, bytes=150),
]


def test_a_folder(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert stage_files(lake) == []
    for name, size in SIZES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    assert stage_files(lake) == EXPECTED


def test_an_object_store(s3: Store) -> None:
    for name, size in SIZES.items():
        s3.client.put_object(Bucket=s3.bucket, Key=f"lake/{name}", Body=b"x" * size)
    s3.asked.clear()
    assert stage_files(Lake(s3.url)) == EXPECTED
    assert all("list-type=2" in path for _, path in s3.asked)  # nothing is fetched


def test_files_that_are_half_written(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    folder = tmp_path / "maps" / OF
    folder.mkdir(parents=True)
    for number, process in enumerate((os.getpid(), os.getpid(), int(ended.stdout))):
        name = f".test-00000{number}.parquet.writing-{store._host()}-{process}-abc"
        (folder / name).touch()
    (found,) = stage_files(Lake(tmp_path))
    assert (found.writing, found.left, found.done) == (2, 1, 0)


def test_a_file_that_goes_while_its_folder_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/whole").touch()
    went = [FileNotFoundError("folder/.whole.writing")]
    ls = lake.fs.ls

    def first_fails(*arguments: object, **options: object) -> object:
        if went:
            raise went.pop()
        return ls(*arguments, **options)

    monkeypatch.setattr(lake.fs, "ls", first_fails)
    assert list(lake.entries("folder")) == ["whole"]
    assert went == []
    assert lake.entries("nowhere") == {}
