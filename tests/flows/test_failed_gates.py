"""A gate that fails: exit code 3, an event on the server, a row in SQL; and `ttame audits`."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from forked import PATIENCE
from prefect_server import ask
from typer.testing import CliRunner

from flows.cli import app
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query

Run = Callable[..., subprocess.CompletedProcess]


def _events(server: dict[str, str], resource: str) -> list[dict]:
    """Events of a resource; the server takes a moment to write them."""
    body = {"filter": {"resource": {"id": [resource]}}, "limit": 10}
    deadline = time.monotonic() + PATIENCE
    while True:
        found = ask(server, "events/filter", body)["events"]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def test_a_failed_gate_is_an_exit_code_an_event_and_a_row(
    ttame: Run, edit_spec: Callable[..., Path], tmp_path: Path, server: dict[str, str]
) -> None:
    spec = edit_spec(
        lambda s: s.update(
            name="gated",
            explainers=["gradcam", "center"],
            evaluation={"metrics": ["shape"]},
            gates=[{"accuracy": {"at_least": 101}}, {"changed_maps": {"at_most": 5}}],
        )
    )
    result = ttame("--quiet", "audit", spec)
    assert result.returncode == 3, result.stderr
    assert "discrimination" in result.stdout
    report, gate = result.stderr.splitlines()  # and nothing else, for it is to be quiet
    assert report.startswith("report: ./workspace/audits/gated/")
    assert "at least 101 is asked for" in gate

    (event,) = _events(server, "ttame.audit.gated")
    assert event["event"] == "ttame.gates.failed"
    (finding,) = event["payload"]["failed"]
    assert (finding["metric"], finding["backbone"]) == ("accuracy", "net")
    assert any(r["prefect.resource.id"].startswith("prefect.flow-run.") for r in event["related"])

    workspace = tmp_path / "workspace"
    rows = run_query(Lake(workspace), "FROM audit_changes").to_pylist()
    assert [(r["name"], r["gate"], r["failed"]) for r in rows] == [
        ("gated", "accuracy: {at_least: 101}", True),
        ("gated", "changed_maps: {at_most: 5, correlation: 0.8}", False),
    ]

    (folder,) = (workspace / "audits/gated").iterdir()
    frozen = yaml.safe_load((folder / "spec.yaml").read_text())
    assert frozen["training"]["learning_rate"] == 5e-3  # a default
    record = json.loads((folder / "record.json").read_text())
    assert record["weights"]["net"]["backbone"].startswith("sha256:")
    assert {"ttame", "torch", "python"} <= record["versions"].keys()

    where = ["--workspace", str(workspace)]
    (listed,) = json.loads(CliRunner().invoke(app, ["audits", *where, "--format", "json"]).stdout)
    assert (listed["name"], listed["timestamp"]) == ("gated", folder.name)
    assert (listed["backbones"], listed["explainers"]) == (1, 2)
    assert (listed["failures"], listed["gates"]) == (0, "1 of 2 failed")
    assert listed["headline"] == rows[0]["words"]
    with pytest.raises(UserError, match="Did you mean gated"):
        CliRunner().invoke(app, ["audits", "gatet", *where], catch_exceptions=False)
