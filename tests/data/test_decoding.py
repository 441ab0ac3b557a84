"""A file that ends, fills or holds up its decoder costs that file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import jpeg, shard_all

from ttame_core import spec
from ttame_core.data import decoding, shards
from ttame_core.data.decoding import apart
from ttame_core.data.images import BrokenImage, examine
from ttame_core.lake import Lake


def _run(code: str) -> object:
    """Evaluate an expression where pictures are decoded; its second argument is no name."""
    code = code.replace("os.", "__import__('os').").replace("time.", "__import__('time').")
    return apart(eval, code.encode(), {})


def test_a_function_is_called_in_another_process_which_stays() -> None:
    assert _run("os.getpid()") == _run("os.getpid()") != os.getpid()
    with pytest.raises(ZeroDivisionError):
        _run("1 / 0")
    assert _run("1 + 1") == 2


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_file_of_which_the_process_dies_is_broken(signal: str) -> None:
    with pytest.raises(BrokenImage, match=signal):
        _run(f"os.kill(os.getpid(), __import__('signal').{signal})")
    assert _run("1 + 1") == 2


def test_a_process_that_something_else_ended_costs_no_file(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"os.path.exists('{mark}') or (os.mkdir('{mark}'), os.kill(os.getpid(), 9))"
    assert _run(code) is True


def test_time_and_memory_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SECONDS", 0.5)
    with pytest.raises(BrokenImage, match=r"takes more than 0\.5 s"):
        _run("sum(iter(int, 1))")
    with pytest.raises(MemoryError):
        _run(f"bytearray({decoding.MEMORY})")


def test_the_processes_end_with_the_one_that_gives_them_work() -> None:
    code = (
        "from ttame_core.data.decoding import apart;"
        "print(apart(eval, b'__import__(\"os\").getpid()', {}), flush=True);"
        "apart(eval, b'__import__(\"time\").sleep(600)', {})"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.kill()
    end = time.monotonic() + 10
    while _is_alive(pid):
        assert time.monotonic() < end
        time.sleep(0.1)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_picture_that_ends_its_decoder_is_one_row_of_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images/cats"
    folder.mkdir(parents=True)
    for name in ("deadly", "good"):
        (folder / f"{name}.jpg").write_bytes(jpeg())

    def call(function: object, data: bytes, name: str, *args: object) -> object:
        return _run("os.abort()") if "deadly" in name else apart(examine, data, name, *args)

    monkeypatch.setattr(shards, "apart", call)
    dataset = spec.Dataset(name="d", source={"kind": "folder", "path": str(tmp_path / "images")})
    lake = Lake(tmp_path / "lake")
    shard_all(dataset, lake)
    (row,) = lake.read_table("datasets/d/rejected.parquet").to_pylist()
    assert row["path"] == "cats/deadly.jpg"
    assert row["reason"] == "decoding it ends the process (SIGABRT)"
    assert lake.parquet_rows("datasets/d/index.parquet") == 1


def test_a_picture_is_made_smaller_as_it_is_displayed() -> None:
    small = examine(jpeg((40, 30)), "a", max_size=20)
    assert (small.size, small.smaller_size, small.suffix) == ((40, 30), (20, 15), "jpg")
    assert small.smaller is not None
    assert examine(small.smaller, "a").size == (20, 15)
    assert examine(jpeg((40, 30)), "a", max_size=40).smaller is None
    with pytest.raises(BrokenImage, match="truncated"):
        apart(examine, jpeg((40, 30))[:-50], "a")
