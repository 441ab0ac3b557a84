"""A whole audit on an object store, and the same one in a folder: same files, same content."""

from __future__ import annotations

import io
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import forked
import pyarrow.parquet as pq
import pytest
from forked import PATIENCE
from stores import BROKEN, KEY, SECRET, Store
from tiny import shard_all

from ttame_core.audits.comparison import compare
from ttame_core.audits.specification import open_spec
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import leaderboard, run_query
from ttame_core.lake.store import PATH

Run = Callable[..., subprocess.CompletedProcess]
CELL = ["dataset", "backbone", "explainer", "metric"]


def _content(files: dict[str, bytes]) -> dict[str, Any]:
    """Files of a lake by name; the time of an audit's record is left out, and what a clock says."""
    content: dict[str, Any] = {}
    for name, data in files.items():
        parts = name.split("/")
        if parts[0] == "audits":
            if not name.endswith((".parquet", "contact-sheet.png")):
                data = b""
            name = "/".join([*parts[:2], *parts[3:]])
        content[name] = data
        if name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            if "metric=cost" in name:
                table = table.drop_columns("seconds")
            rows = table.to_pylist()
            if parts[0] == "audits":  # sums of the same numbers in another order
                rows = [_rounded(row) for row in rows if row.get("metric") != "seconds"]
            about = dict(table.schema.metadata)
            if parts[0] == "audits":
                assert about.pop(PATH).decode() == "/".join(parts)  # it has the record's time
            content[name] = (about, rows)
    return content


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def _in_folder(folder: Path) -> dict[str, Any]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return _content({str(p.relative_to(folder)): p.read_bytes() for p in files})


def _in_store(s3: Store) -> dict[str, Any]:
    return _content({k.removeprefix("lake/"): v for k, v in s3.content().items()})


@pytest.fixture
def with_fitted(edit_spec: Callable[..., Path]) -> Path:
    def change(spec: dict) -> None:
        fitted = {k: v for k, v in spec["backbones"][0].items() if k != "checkpoint"}
        fit = {"epochs": 2, "batch_size": 8, "learning_rate": 0.001}
        spec["backbones"] = [fitted | {"name": "fitted", "fit": fit}]
        spec["explainers"] = ["ttame", "gradcam", "oracle"]
        spec["evaluation"] = {"metrics": ["confidence", "shape"]}  # a request a file and metric

    return edit_spec(change)


def _prefect(server: dict[str, str], path: str) -> str:
    """All that a Prefect server says of its runs."""
    request = urllib.request.Request(
        f"{server['PREFECT_API_URL']}/{path}/filter",
        json.dumps({"limit": 200}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return response.read().decode()


@pytest.mark.slow
def test_an_audit_on_an_object_store_is_the_one_in_a_folder(
    ttame: Run, with_fitted: Path, s3: Store, server: dict[str, str], tmp_path: Path
) -> None:
    said = ""

    def run(*arguments: object, place: str = s3.url, **loud: str) -> str:
        nonlocal said
        result = ttame(*arguments, "--workspace", place, **loud, **s3.env)
        said += result.stdout + result.stderr
        assert result.returncode == 0, result.stderr
        return result.stdout

    run("audit", with_fitted, PREFECT_LOGGING_LEVEL="DEBUG")
    local = str(tmp_path / "workspace")
    run("audit", with_fitted, place=local)
    expected, found = _in_folder(tmp_path / "workspace"), _in_store(s3)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    kinds = {name.split("/")[0] for name in found}
    made = {"backbones", "classes", "heads", "explainers", "maps", "scores"}
    assert kinds == {"datasets", *made, "audits"}

    # run again: nothing is written again
    s3.asked.clear()
    run("audit", with_fitted)
    written = [path for method, path in s3.asked if method in ("PUT", "POST", "DELETE")]
    assert all("/audits/" in path for path in written)
    s3.asked.clear()
    assert "evaluate" in run("audit", with_fitted, "--dry-run")
    assert {method for method, _ in s3.asked} <= {"GET", "HEAD"}

    # and it answers the same questions
    lake = Lake(local)
    board = json.loads(run("query", "FROM leaderboard ORDER BY ALL", "--format", "json"))
    other = leaderboard(lake).sort_by([(c, "ascending") for c in CELL]).to_pylist()
    assert [[row[c] for c in CELL] for row in board] == [[row[c] for c in CELL] for row in other]
    pairs = json.loads(run("compare", "ttame", "gradcam", "--format", "json"))
    assert len(pairs) == compare(lake, "ttame", "gradcam").rows.num_rows > 4
    key = run_query(lake, "SELECT min(key) AS key FROM maps").to_pylist()[0]["key"]
    run("show", key, "--output", "shown.png")
    run("sweep", with_fitted, "--trials", 1)
    (trial,) = Lake(s3.url).glob("sweeps/*/*/*/*")
    assert trial.endswith("/000.parquet")
    assert (tmp_path / "shown.png").read_bytes().startswith(b"\x89PNG")

    # of credentials nothing is in the bucket, the folder, the logs, or what Prefect knows
    said += "".join(
        _prefect(server, path) for path in ("flow_runs", "task_runs", "logs", "artifacts")
    )
    assert s3.url in said
    files = [*s3.content().values(), *(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())]
    for secret in (SECRET, KEY):
        assert secret not in said
        assert not any(secret.encode() in data for data in files)


@pytest.mark.long
def test_killed_while_training_it_goes_on_from_the_stores_checkpoint(
    ttame: Run, forks: ForkServerContext, spec_file: Path, s3: Store, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    undisturbed = tmp_path / "undisturbed"
    for place in (s3.url, undisturbed):
        shard_all(open_spec(spec_file).dataset, Lake(place))
    train = ["train", spec_file, "--workspace"]
    assert ttame(*train, undisturbed).returncode == 0

    process = forked.start(forks, [*train, s3.url], tmp_path, log, log, s3.env)
    deadline = time.monotonic() + PATIENCE
    while not any(method == "PUT" and "checkpoint.pt" in path for method, path in s3.asked):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    s3.asked.clear()
    assert ttame(*train, s3.url, **s3.env).returncode == 0
    assert any(method == "GET" and "checkpoint.pt" in path for method, path in s3.asked)
    assert _in_store(s3) == _in_folder(undisturbed)


def test_a_store_that_goes_away_fails_in_one_sentence_and_the_next_run_ends_it(
    ttame: Run, spec_file: Path, s3: Store, tmp_path: Path
) -> None:
    """It comes back between the tries of a task; it stays away; it is back."""
    gone = iter(range(10**9))

    def hiccup(ask: tuple[str, str]) -> Any:
        if ask[0] == "PUT" and ".tar" in ask[1] and next(gone) < 1:
            return BROKEN
        return None

    s3.fault = hiccup
    few = {"AWS_MAX_ATTEMPTS": "1"}  # so that it is the tasks that try again
    result = ttame("shard", spec_file, "--workspace", s3.url, **s3.env, **few)
    assert result.returncode == 0, result.stderr
    assert next(gone) > 1

    s3.fault = lambda ask: BROKEN
    result = ttame("explain", spec_file, "--workspace", s3.url, **s3.env, **few)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert "does not answer as it should" in last
    assert "Traceback" not in result.stderr

    s3.fault = None
    whole = _in_store(s3)
    assert ttame("shard", spec_file, "--workspace", s3.url, **s3.env).returncode == 0
    assert _in_store(s3) == whole


def test_a_workspace_with_a_password_in_it_is_refused_before_prefect_hears_of_it(
    ttame: Run, spec_file: Path, server: dict[str, str]
) -> None:
    place = "s3://me:hushhush@bucket/lake"
    for command in (
        ["audit", spec_file],
        ["query", "FROM maps"],
        ["audit", spec_file, "--dry-run"],
    ):
        result = ttame(*command, "--workspace", place)
        assert result.returncode == 2
        assert "leave them out" in result.stderr
        assert "hushhush" not in result.stderr + result.stdout
    assert "hushhush" not in _prefect(server, "flow_runs")
