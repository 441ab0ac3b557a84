"""Files of others in the folder where a command is started run no code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.dry_run import print_plan
from flows.status import print_status
from ttame_core.audits.specification import open_spec
from ttame_core.audits.verify import verify
from ttame_core.backbones import own_weights
from ttame_core.lake import Lake
from ttame_core.stages.provenance import Provenance

AUDIT = """
name: strange
dataset: {name: drawn, source: {kind: shapes, train: 4, val: 2, test: 4, size: 32}}
backbones: [{model: "strange_net:make", taps: []}]
explainers: [random]
"""
LOGGING = """
version: 1
handlers: {own: {"()": os.system, command: touch ran}}
root: {level: INFO, handlers: [own]}
"""
LOG = "from prefect.logging.configuration import setup_logging; setup_logging()"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "PREFECT_LOGGING_SETTINGS_PATH=logging.yml"),
        ("pyproject.toml", "[tool.prefect.logging]\nconfig_path = 'logging.yml'"),
        ("prefect.toml", "[logging]\nconfig_path = 'logging.yml'"),
    ],
)
def test_settings_of_logging_run_no_code(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "logging.yml").write_text(LOGGING)
    (tmp_path / name).write_text(text)
    free = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_LOGGING")}
    place = {"PREFECT_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    for begin, runs in (("", True), ("import flows; ", False)):  # Prefect alone runs it
        subprocess.run([sys.executable, "-c", begin + LOG], env=free | place, cwd=tmp_path)
        assert (tmp_path / "ran").exists() == runs
        (tmp_path / "ran").unlink(missing_ok=True)


def test_what_only_looks_runs_no_code_of_a_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user trusts the function, and an audit would call it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTAME_TRUST", "strange_net")
    (tmp_path / "strange_net.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\nfrom torch.nn import Identity as make\n"
    )
    (tmp_path / "spec.yaml").write_text(AUDIT)
    audit, lake = open_spec(tmp_path / "spec.yaml"), Lake(tmp_path / "workspace")
    print_plan(audit, lake.root)
    assert "because its code would run" in capsys.readouterr().out
    print_status(lake.root, audit, "table", None)
    assert Provenance(audit, lake, imports=False).unmade()
    assert verify(lake) == []
    assert not (tmp_path / "ran").exists()
    own_weights(audit.backbones[0])
    assert (tmp_path / "ran").exists()
