"""Ctrl-C and SIGTERM: nothing half written, nobody left, and the same command goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import forked
import psutil
import pytest
from forked import PATIENCE
from slow_disk import slow_in

from harness.audits import differences, temporary
from ttame_core.lake import Lake
from ttame_core.stopping import Stopped, give_up, scratch

Run = Callable[..., subprocess.CompletedProcess]

# A stage is under way when it writes this.
WRITES = {
    "train": "heads/*/*/*/.checkpoint.pt.writing-*",
    "explain": "maps/*/*/*/.*.writing-*",
    "evaluate": "scores/metric=confidence/*/*/*/.*.writing-*",
}
SLOW = "heads", "maps", "scores/metric=confidence"
WRITER = """
import signal, sys, threading, time
from flows.stopping import end_on_signals
from ttame_core.lake import Lake
end_on_signals()
# As happens among the threads of libraries: another one than the main thread is interrupted.
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
with Lake(sys.argv[1]).create("folder/file") as path:
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""

# What a module holds goes when Python ends, and has put back the default handlers of signals.
LAST = """
import os, sys
import flows.__main__ as command
class Last:
    def __del__(self, kill=os.kill, process=os.getpid(), number=int(sys.argv[1])):
        kill(process, number)
command.last = Last()
sys.argv = ["ttame", "--version"]
command.main()
"""


def test_what_is_half_written_goes_with_whoever_stops(tmp_path: Path) -> None:
    lake = Lake(tmp_path)

    def write() -> None:
        with lake.create("folder/file") as path:
            path.write_text("half")
            raise Stopped("stopped", signal.SIGINT)

    with pytest.raises(Stopped, match="stopped"):
        write()
    assert list((tmp_path / "folder").iterdir()) == []

    (tmp_path / "whole").touch()
    (tmp_path / "tree/below").mkdir(parents=True)
    with scratch(tmp_path / "tree"), scratch(tmp_path / "not made yet"):
        give_up()
        assert [p.name for p in tmp_path.iterdir() if p.name != "folder"] == ["whole"]


def test_a_worker_ends_at_once_and_takes_its_file_along(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "writing\n"
    assert len(list((tmp_path / "folder").iterdir())) == 1
    worker.send_signal(signal.SIGINT)
    _, said = worker.communicate(timeout=30)
    assert (worker.returncode, said) == (130, "")
    assert list((tmp_path / "folder").iterdir()) == []


# A query that takes minutes, and a retry after its error: as a task of Prefect would.
QUERY = """
import sys
from flows import cli
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect
def app():
    for attempt in range(3):
        try:
            with connect(Lake(sys.argv[1])) as db:
                print("asking", flush=True)
                million = "(FROM range(1000000))"
                db.sql(f"SELECT max(hash(a.range, b.range)) FROM {million} a, {million} b").show()
        except Exception as error:
            print("swallowed", type(error).__name__, flush=True)
cli.app = app
cli.main()
"""
SLOW_TO_IMPORT = """
import time
print("importing", flush=True)
time.sleep(600)
"""
# The main thread hears of nothing.
DEAF = """
import time
from flows import cli
def app():
    print("asking", flush=True)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
cli.app = app
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [QUERY, DEAF], ids=["query", "deaf"])
def test_whatever_swallows_a_signal_the_command_ends(
    code: str, number: signal.Signals, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "asking\n"
    time.sleep(0.5)
    process.send_signal(number)
    out, words = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert words.count("the same command goes on from there") == 1
    assert "asking" not in out
    assert "swallowed" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_first_imports_ends_a_command_quietly(
    number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "typer.py").write_text(SLOW_TO_IMPORT)
    command = subprocess.Popen(
        [sys.executable, "-m", "flows", "--help"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "importing\n"
    command.send_signal(number)
    _, said = command.communicate(timeout=PATIENCE)
    assert (command.returncode, said) == (128 + number, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_moments_leaves_the_exit_code(number: signal.Signals) -> None:
    command = [sys.executable, "-c", LAST, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def _audit(spec: Path, workspace: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """In a session of its own, as a terminal's."""
    command = [sys.executable, "-m", "flows", "audit", str(spec)]
    with (workspace.parent / "said").open("w") as said:
        return subprocess.Popen(
            [*command, "--workspace", str(workspace)],
            env=env | slow_in(*SLOW) | {"PYTHONFAULTHANDLER": "1"},
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )


def _wait_for(workspace: Path, stage: str, runs: Callable[[], bool]) -> None:
    """Until something is half written in that stage."""
    deadline = time.monotonic() + PATIENCE
    while not list(workspace.glob(WRITES[stage])):
        assert runs(), f"it ended before it wrote in stage {stage}"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _stopped_well(said: str, workers: list[psutil.Process], workspace: Path) -> None:
    assert "Traceback" not in said
    assert said.count("the same command goes on from there") == 1
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    assert list(workspace.rglob("*.writing-*")) == []


@pytest.mark.long
def test_stopped_in_each_stage_and_run_again_gives_the_same_lake(
    ttame: Run, forks: ForkServerContext, edit_spec: Callable[..., Path], tmp_path: Path
) -> None:
    def smaller(spec: dict) -> None:
        spec["dataset"] |= {"samples_per_shard": 4}
        spec["explainers"] = ["ttame", "random", "oracle"]
        spec["evaluation"] = {"metrics": ["confidence", "shape"]}

    spec = edit_spec(smaller)
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    audit = ["audit", spec, "--workspace"]
    assert ttame(*audit, undisturbed).returncode == 0

    for stage, number in (
        ("train", signal.SIGINT),
        ("explain", signal.SIGTERM),
        ("evaluate", signal.SIGINT),
    ):
        said = tmp_path / f"{stage}.log"
        process = forked.start(forks, [*audit, stopped], tmp_path, said, said, slow_in(*SLOW))
        _wait_for(stopped, stage, process.is_alive)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, number)
        process.join(100)
        _stopped_well(said.read_text(), workers, stopped)
        assert process.exitcode == 128 + number
    assert ttame(*audit, stopped).returncode == 0
    assert differences(undisturbed, stopped) == []
    assert temporary(stopped) == []


@pytest.mark.long
def test_ctrl_c_reaches_the_workers_of_an_engine_and_a_temporary_server(
    ttame: Run, server: dict[str, str], edit_spec: Callable[..., Path], tmp_path: Path
) -> None:
    compute = {"engine": "processes", "at_once": 2}
    spec = edit_spec(
        lambda s: (s["dataset"].update(samples_per_shard=4), s["compute"].update(compute))
    )
    alone = {**server}
    del alone["PREFECT_API_URL"]
    workspace = tmp_path / "workspace"
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        audit = _audit(spec, workspace, alone)
        _wait_for(workspace, "explain", lambda: audit.poll() is None)
        workers = psutil.Process(audit.pid).children(recursive=True)
        os.killpg(audit.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
        assert audit.wait(100) == 130
        _stopped_well((tmp_path / "said").read_text(), workers, workspace)
        assert bystander.poll() is None
    finally:
        bystander.kill()
    whole = shutil.copytree(workspace, tmp_path / "copy")
    edit_spec(lambda s: s["compute"].update(engine="threads", at_once=None))
    assert ttame("audit", spec, "--workspace", workspace).returncode == 0
    assert temporary(workspace) == []
    mine = {p.relative_to(whole) for p in whole.glob("heads/**/*.parquet")}
    assert mine
    for path in mine:  # what was whole was not made again
        assert (whole / path).read_bytes() == (workspace / path).read_bytes()
