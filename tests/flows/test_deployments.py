"""prefect.yaml, deployed to a real server and run by a real worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
Prefect = Callable[..., subprocess.CompletedProcess]


def prefect(server: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        env=server,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_the_deployments_work(server: dict[str, str], spec_file: Path, tmp_path: Path) -> None:
    names = [d["name"] for d in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]]
    prefect(server, "work-pool", "create", "ttame", "--type", "process")
    prefect(server, "deploy", "--all")
    listed = prefect(server, "deployment", "ls").stdout
    assert all(name in listed for name in names)

    workspace = tmp_path / "workspace"
    parameters = json.dumps({"spec": str(spec_file), "workspace": str(workspace)})
    prefect(server, "deployment", "run", "shard_dataset/shard", "--params", parameters)
    prefect(server, "worker", "start", "--pool", "ttame", "--run-once")
    assert (workspace / "datasets/drawn/shards.parquet").exists()
