"""Files of others in the folder where a command is started, which Prefect reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
