"""A real Prefect server for the flows' tests, and a small audit."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path

import certifi
import forked
import pytest
import timm
import torch
import yaml
from filelock import FileLock
from forked import PATIENCE, fork_server
from safetensors.torch import save_file

from flows.temporary_server import _command

MODEL = {"model": "resnet10t", "args": {"channels": [8, 16, 24, 32], "stem_width": 8}}
VIEW = {"preprocessing": {"input_size": [64, 64]}}  # of the pictures; the model has 176


@pytest.fixture(scope="session")
def tables(of_all_processes: Path) -> Path:
    """The database of a server that has done nothing: to make its tables takes as long as to start.

    It is made once for all processes of the tests.
    """
    home = of_all_processes / "prefect"
    with FileLock(f"{home}.lock"):
        if not (home / "prefect.db").exists():
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
            env = os.environ | {"PREFECT_HOME": str(home)}
            subprocess.run(command, env=env, check=True, capture_output=True)
    return home / "prefect.db"


@pytest.fixture(scope="session")
def server(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of processes that talk to a Prefect server on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    (home / "ca.pem").write_text(_first_certificate())
    shutil.copy(tables, home)
    env = os.environ | {
        "PREFECT_HOME": str(home),
        # Every client reads the authorities that it trusts: here one instead of 140.
        "PREFECT_API_SSL_CERT_FILE": str(home / "ca.pem"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    for name in ("TTAME_WORKSPACE", "PREFECT_LOGGING_LEVEL"):  # the latter is the benches'
        env.pop(name, None)
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(_command(port), env=env, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}/api"
            _wait_for(f"{url}/health", process)
            yield env | {"PREFECT_API_URL": url}
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()


def _first_certificate() -> str:
    end = "-----END CERTIFICATE-----\n"
    return Path(certifi.where()).read_text().partition(end)[0] + end


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the Prefect server did not start")


@pytest.fixture(scope="session")
def forks(server: dict[str, str]) -> ForkServerContext:
    return fork_server(server)


@pytest.fixture
def ttame(forks: ForkServerContext, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run the command line as a user does, in a folder of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return forked.run(forks, arguments, tmp_path, environment, timeout=PATIENCE)

    return run


@pytest.fixture(scope="session")
def small_audit() -> Callable[[Path], Path]:
    """Write the spec of a small audit into a folder."""
    return _small_audit


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    return _small_audit(tmp_path)


def _small_audit(folder: Path) -> Path:
    """One untrained network over a few drawn pictures."""
    torch.manual_seed(0)
    state = timm.create_model(MODEL["model"], num_classes=10, **MODEL["args"]).state_dict()
    save_file(state, folder / "net.safetensors")
    spec = {
        "name": "small",
        "dataset": {
            "name": "drawn",
            "samples_per_shard": 8,
            "source": {"kind": "shapes", "train": 32, "val": 8, "test": 16, "size": 64},
        },
        "backbones": [{"name": "net", "checkpoint": "${here}/net.safetensors", **MODEL, **VIEW}],
        "training": {"epochs": 2, "min_steps": 0, "batch_size": 8, "checkpoint_steps": 2},
        "compute": {"batch_size": 4, "workers": 2},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.fixture
def edit_spec(spec_file: Path) -> Callable[[Callable[[dict], None]], Path]:
    """Change the small audit's spec in place."""

    def edit(change: Callable[[dict], None]) -> Path:
        spec = yaml.safe_load(spec_file.read_text())
        change(spec)
        spec_file.write_text(yaml.safe_dump(spec))
        return spec_file

    return edit
