"""What a Prefect server is told of a spec."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from prefect_server import ask

from flows.audit_zoo import audit_zoo
from flows.shard_dataset import shard_dataset
from ttame_core.audits.specification import open_spec
from ttame_core.spec import AuditSpec

Run = Callable[..., subprocess.CompletedProcess]
LIMIT = 512 * 1024  # bytes of the parameters of a run
NAMES = [f"class {number}, of a genus and a family" for number in range(21_841)]


def _many_names(spec: dict) -> None:
    spec["backbones"][0]["class_names"] = NAMES


def test_a_spec_with_21841_classes_is_told_by_its_name(edit_spec: Callable[..., Path]) -> None:
    audit = open_spec(edit_spec(_many_names))
    assert len(audit.model_dump_json()) > LIMIT
    told = audit_zoo.serialize_parameters({"spec": audit, "workspace": "somewhere"})
    assert told == {"spec": {"name": "small"}, "workspace": "somewhere"}
    path = shard_dataset.serialize_parameters({"spec": "a.yaml", "workspace": "somewhere"})
    assert path["spec"] == "a.yaml"
    assert isinstance(
        audit_zoo.validate_parameters({"spec": audit, "workspace": ""})["spec"], AuditSpec
    )


def test_a_server_takes_it(ttame: Run, edit_spec: Callable[..., Path], server: dict) -> None:
    result = ttame("shard", edit_spec(_many_names))
    assert result.returncode == 0, result.stderr
    wanted = {
        "limit": 1,
        "sort": "START_TIME_DESC",
        "flow_runs": {"name": {"any_": ["shard small"]}},
    }
    (run,) = ask(server, "flow_runs/filter", wanted)
    assert run["parameters"]["spec"] == {"name": "small"}
