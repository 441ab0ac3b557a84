"""The same audit on every engine, workers killed on the way: the same lake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import psutil
import pytest
import yaml
from forked import PATIENCE
from prefect.settings import PREFECT_API_URL, temporary_settings
from slow_disk import slow_in

from flows.each_backbone import MOST, TOGETHER, batches
from flows.engine import opened
from flows.runners import gpus_of, runner_of
from harness.audits import differences
from ttame_core.errors import UserError
from ttame_core.spec import Compute

KILLED = "maps", "scores/metric=shape"  # workers that write there
Start = Callable[..., BaseProcess]


@pytest.fixture
def start(
    forks: ForkServerContext, edit_spec: Callable[..., Path], tmp_path: Path
) -> Iterator[Start]:
    """Start the stages on an engine, in the workspace of that name; stopped at the end."""

    def with_more_shards(spec: dict) -> None:
        spec["name"] = "engines"
        spec["dataset"] |= {"samples_per_shard": 4}
        spec["explainers"] = ["ttame", "random", "oracle"]
        spec["evaluation"] = {"metrics": ["confidence", "shape"]}
        net = spec["backbones"][0]
        spec["backbones"] = [net | {"name": "broken", "args": {"stem_width": 16}}, net]

    spec = edit_spec(with_more_shards)
    started: list[BaseProcess] = []

    def run(engine: str, **compute: object) -> BaseProcess:
        audit = yaml.safe_load(spec.read_text())
        audit["compute"] |= {"engine": engine, **compute}
        own = spec.with_name(f"{engine}.yaml")
        own.write_text(yaml.safe_dump(audit))
        says, log = (tmp_path / f"{engine}.{name}" for name in ("says", "log"))
        says.unlink(missing_ok=True)  # of a run before
        slow = {} if engine == "threads" else slow_in(*KILLED)
        environment = {"TTAME_TRUST": str(compute.get("address", "")), **slow}
        process = forked.start(
            forks, [own, tmp_path / engine], tmp_path, says, log, environment, "stages_alone:main"
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()


def _writer(workspace: Path, folder: str, process: BaseProcess) -> int:
    """The process that has a file of this folder half written."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.is_alive(), f"it ended before it wrote to {folder}"
        for path in workspace.glob(f"{folder}/**/.*.writing-*"):
            writer = int(path.name.rsplit("-", 2)[1])
            if psutil.pid_exists(writer):
                return writer
        time.sleep(0.01)
    raise AssertionError(f"nothing was written to {folder}")


def _failures(process: BaseProcess, workspace: Path) -> list[str]:
    """What the stages in this workspace say of failures, when they have ended."""
    process.join(PATIENCE)
    assert process.exitcode == 0
    said = workspace.with_suffix(".says").read_text()
    return [line for line in said.splitlines() if " broken: " in line]


def _ends_as(process: BaseProcess, workspace: Path, expected: Path, says: list[str]) -> None:
    assert _failures(process, workspace) == says
    assert differences(expected, workspace) == []


@contextmanager
def _dask(tmp_path: Path, env: dict[str, str]) -> Iterator[str]:
    """A Dask cluster of four workers; its address."""
    file = tmp_path / "scheduler.json"
    local = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
    dask = [sys.executable, "-m", "dask"]
    one = ["--nworkers", "4", "--nthreads", "1", "--resources", "GPU=1", "--no-dashboard"]
    with (tmp_path / "dask.log").open("w") as log:
        started = [
            subprocess.Popen([*dask, *command, *local], env=env, stdout=log, stderr=log)
            for command in (["scheduler", "--port", "0", "--no-dashboard"], ["worker", *one])
        ]
        try:
            while not file.exists():
                time.sleep(0.1)
            yield yaml.safe_load(file.read_text())["address"]
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(60)


def test_a_flow_has_some_thousand_task_runs_whatever_the_data_set() -> None:
    for shards, backbones in ((3, 1), (1_280, 12), (100_000, 3), (1_000_000, 1), (5_001, 1)):
        names = [str(number) for number in range(shards)]
        made = batches(names, backbones, 16)
        assert [[name for some in batch for name in some] for batch in made] == [names] * backbones
        runs = sum(map(len, made))
        assert shards * backbones / max(TOGETHER, shards * backbones / MOST) <= runs <= 1.1 * MOST


def test_task_runs_take_less_and_less_so_that_all_workers_end_at_one_time() -> None:
    assert batches("abcdefgh", at_once=2) == [[["a", "b"], *map(list, "cdefgh")]]
    first, second = batches("abcdefgh", backbones=2, at_once=2)
    assert first == [list("abcd"), list("efg"), ["h"]]
    assert [second] == batches("abcdefgh", at_once=2)
    for at_once in (1, 4, 64):
        (made,) = batches([str(number) for number in range(1_000)], at_once=at_once)
        sizes = [*map(len, made)]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == min(TOGETHER, 1_000 // (2 * at_once))
        assert sum(size == 1 for size in sizes) >= 2 * at_once


def test_an_engine_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_ray", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install 'ttame\[ray\]'"):
        runner_of(Compute(engine="ray"))
    cluster = Compute(engine="dask", address="tcp://10.0.0.1:8786")
    with pytest.raises(UserError, match=r"export TTAME_TRUST=tcp://10\.0"), opened(cluster):
        pass
    monkeypatch.setenv("TTAME_TRUST", "tcp://10.0.0.1:8786")
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(UserError, match="set PREFECT_API_URL"),
        opened(cluster),
    ):
        pass


def test_each_process_has_one_gpu_of_those_that_the_audit_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_of(Compute()) == ["0", "1"]
    assert gpus_of(Compute(device="cpu")) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpus_of(Compute(device="cuda")) == ["3", "5"]
    for at_once, running in ((None, 2), (6, 6)):
        runner = runner_of(Compute(engine="processes", at_once=at_once))
        assert (runner.room(), runner.in_flight) == (running, 2)  # one runs and one waits


@pytest.fixture
def expected(start: Start, tmp_path: Path) -> tuple[Path, list[str]]:
    """The workspace that the engine of one process leaves, and what it says of failures."""
    says = _failures(start("threads"), tmp_path / "threads")
    assert [line.split(":")[0] for line in says] == [
        f"{stage} broken" for stage in ("train_heads", "explain_dataset")
    ]
    assert all("is of another architecture than" in line for line in says[:2])
    return tmp_path / "threads", says


@pytest.mark.slow
def test_the_same_lake_of_processes(
    start: Start, expected: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """One of them is killed on the way."""
    own = tmp_path / "processes"
    audit = start("processes", at_once=2)
    os.kill(_writer(own, KILLED[1], audit), signal.SIGKILL)
    _ends_as(audit, own, *expected)


@pytest.mark.long
def test_a_killed_audit_takes_its_processes_along(
    start: Start, expected: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Run again, it leaves the same lake."""
    own = tmp_path / "processes"
    audit = start("processes", at_once=2)
    _writer(own, KILLED[0], audit)
    processes = psutil.Process(audit.pid).children(recursive=True)
    assert len(processes) >= 2
    audit.kill()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    _ends_as(start("processes", at_once=2), own, *expected)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_the_same_lake_of_a_cluster(
    engine: str,
    start: Start,
    server: dict[str, str],
    expected: tuple[Path, list[str]],
    tmp_path: Path,
) -> None:
    """A worker is killed on the way."""
    pytest.importorskip(f"prefect_{engine}", reason="make test-all installs the group clusters")
    with _dask(tmp_path, server | slow_in(*KILLED)) if engine == "dask" else nullcontext() as at:
        audit = start(engine, **({"address": at} if at else {"at_once": 4}))
        os.kill(_writer(tmp_path / engine, KILLED[0], audit), signal.SIGKILL)
        _ends_as(audit, tmp_path / engine, *expected)
