"""`ttame status` of an audit that fails in part, runs, was killed, and has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
from forked import PATIENCE
from prefect.settings import PREFECT_API_URL, temporary_settings
from slow_disk import slow_in
from stores import Store
from tiny import shard_all

from flows.runs import _audit_of, _name_in
from flows.status import print_status
from ttame_core import spec
from ttame_core.audits.specification import open_spec
from ttame_core.lake import Lake

NO_SERVER = {PREFECT_API_URL}
Run = Callable[..., subprocess.CompletedProcess]
Rows = dict[tuple[str, str, str], dict[str, object]]


@pytest.fixture
def status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Rows]:
    """The rows, by stage, backbone and explainer. url: of a Prefect server."""

    def rows(audit: Path | None = None, url: str | None = None) -> Rows:
        with temporary_settings({PREFECT_API_URL: url} if url else {}, restore_defaults=NO_SERVER):
            wanted = open_spec(str(audit)) if audit else None
            print_status(str(tmp_path / "workspace"), wanted, "json", None)
        found = json.loads(capsys.readouterr().out)
        return {(r["stage"], r["backbone"], r["explainer"]): r for r in found}

    return rows


def _stopped_in(audit: BaseProcess, workspace: Path, folder: str) -> None:
    """Hold a process that has a file of this folder half written."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert audit.is_alive()
        if list(workspace.glob(f"{folder}/**/.*.writing-*")):
            os.kill(audit.pid, signal.SIGSTOP)
            time.sleep(0.1)
            if list(workspace.glob(f"{folder}/**/.*.writing-*")):
                return
            os.kill(audit.pid, signal.SIGCONT)
        time.sleep(0.001)
    raise AssertionError(f"nothing was written to {folder}")


def test_a_deployed_run_is_of_the_audit_in_its_file(spec_file: Path) -> None:
    def named(spec: object) -> str:
        return _audit_of(SimpleNamespace(parameters={"spec": spec}), _name_in)

    assert named(str(spec_file)) == named({"name": "small"}) == "small"
    assert named("gone.yaml") == "gone.yaml"


@pytest.mark.slow
def test_an_audit_from_its_start_to_its_end(
    ttame: Run,
    forks: ForkServerContext,
    status: Callable[..., Rows],
    edit_spec: Callable[..., Path],
    server: dict[str, str],
    tmp_path: Path,
) -> None:
    def with_broken(spec: dict) -> None:
        broken = spec["backbones"][0] | {"name": "broken", "args": {"stem_width": 16}}
        spec["backbones"].insert(0, broken)
        spec["evaluation"] = {"metrics": ["shape"]}

    url = server["PREFECT_API_URL"]
    spec, workspace = edit_spec(with_broken), tmp_path / "workspace"
    nothing = ttame("status")
    assert nothing.returncode == 0, nothing.stderr
    assert "Nothing is there yet" in nothing.stdout

    log = tmp_path / "log"
    audit = forked.start(forks, ["audit", spec], tmp_path, log, log, slow_in("maps"))
    try:
        _stopped_in(audit, workspace, "maps")
        deadline = time.monotonic() + PATIENCE
        while True:  # the server takes a moment to write what it was told
            found = status(url=url)
            failed = found.get(("train", "broken", ""), found.get(("train", "broken", "ttame")))
            if failed or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert failed
        assert (failed["failed"], failed["done"]) == (1, 0)
        shards = found["shard", "", ""]
        assert (shards["done"], shards["of"]) == (7, 7)
        assert shards["bytes"] == sum(
            p.stat().st_size for p in (workspace / "datasets").rglob("*") if p.is_file()
        )
        trained = found["train", "net", "ttame"]
        assert (trained["done"], trained["of"], trained["running"]) == (1, 1, 0)
        assert found["explain", "net", "ttame"]["running"] >= 1  # two, until it hears of the first
        shown = ttame("status").stdout
        assert "audit small runs since" in shown
        assert "train ttame on broken failed" in shown
        assert url in shown
    finally:
        audit.kill()
        audit.join()

    # Killed: the files say so, whatever the server believes.
    found = status(spec)
    begun = found["explain", "net", "ttame"]
    assert (begun["running"], begun["of"]) == (0, 2)
    assert begun["done"] < 2
    assert "half written" in begun["note"]
    assert found["evaluate", "net", "oracle"]["done"] == 0

    assert ttame("audit", spec).returncode == 2
    ended = ttame("status", spec, PREFECT_API_URL="")
    assert "no PREFECT_API_URL is set" in ended.stdout
    assert "broken failed: the checkpoint" in ended.stdout
    found = status(spec, url)
    for stage, explainer in (("explain", "ttame"), ("evaluate", "random")):
        row = found[stage, "net", explainer]
        assert (row["done"], row["of"], row["running"], row["note"]) == (2, 2, 0, "")
    assert found["report", "", ""]["done"] == 1

    # Other settings: what is there is no longer what the spec asks for.
    edit_spec(lambda s: s["training"].update(epochs=3))
    row = status(spec)["explain", "net", "ttame"]
    assert (row["done"], row["note"]) == (0, "2 to be made again")


def test_an_object_store(s3: Store, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = spec.Dataset(
        name="drawn", source={"kind": "shapes", "train": 2, "val": 1, "test": 2, "size": 32}
    )
    shard_all(dataset, Lake(s3.url))
    print_status(s3.url, None, "json", None)
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["stage"], row["dataset"], row["done"], row["of"]) == ("shard", "drawn", 3, 3)
    assert row["bytes"] == sum(map(len, s3.content().values()))
    print_status(s3.url, None, "table", None)
    assert s3.url in capsys.readouterr().out
