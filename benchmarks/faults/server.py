"""A Prefect server that goes away while an audit runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.kills import PATIENCE, durations_of
from harness.audits import differences
from ttame_core import spec


def server_away(audit: spec.AuditSpec, folder: Path, seconds: float) -> list[str]:
    """Stop a real Prefect server in the middle of an audit, and start it again; what went wrong.

    It goes while a classifier is fitted, and comes back when that flow has long ended.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    env = os.environ | {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": address}
    env |= {"OMP_NUM_THREADS": "1"}  # as the undisturbed audit has: sums depend on it
    undisturbed, workspace = folder / "undisturbed", folder / "workspace"
    durations_of(audit, undisturbed)
    (folder / "audit.yaml").write_text(audit.model_dump_json())
    command = [sys.executable, "-m", "flows", "audit", f"{folder}/audit.yaml"]
    log = folder / "audit.log"
    with _prefect_server(env, port), log.open("w") as out:
        running = subprocess.Popen(
            [*command, "--workspace", workspace], env=env, stdout=out, stderr=out
        )
        while running.poll() is None and not list(workspace.glob("backbones/*/*/checkpoint.pt")):
            time.sleep(0.05)
    time.sleep(seconds)
    if running.poll() is not None:
        return [f"the audit did not wait for the server: {log.read_text()[-2000:]}"]
    with _prefect_server(env, port):
        ended = running.wait(PATIENCE)
    problems = [f"the audit ended with {ended}: {log.read_text()[-2000:]}"] if ended else []
    return problems + [f"{name} differs" for name in differences(undisturbed, workspace)]


@contextmanager
def _prefect_server(env: dict[str, str], port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet)
    try:
        end = time.monotonic() + PATIENCE
        while not _answers(f"{env['PREFECT_API_URL']}/health"):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the Prefect server did not start")
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5)
    except OSError:
        return False
    return True
