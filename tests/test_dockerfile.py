"""The Dockerfile, as far as it can be tested without building it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LINES = [
    line.split(maxsplit=1)
    for line in (ROOT / "Dockerfile").read_text().splitlines()
    if line and not line.startswith(("#", " "))
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPLOYED = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def _lines(instruction: str) -> list[str]:
    return [rest for name, rest in LINES if name == instruction]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's folder of that name: what is copied, but for what .dockerignore keeps out."""
    place = tmp_path_factory.mktemp("image") / "app"
    allowed = (ROOT / ".dockerignore").read_text().split()
    assert allowed[0] == "*"
    for line in _lines("COPY"):
        *sources, target = line.split()
        for source in sources:
            assert f"!{source}" in allowed
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place / target, ignore=ignore)
            else:
                (place / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place / target)
    return place


def test_it_names_what_there_is() -> None:
    (base,) = _lines("FROM")
    assert re.fullmatch(r"python:3\.\d+-slim", base)
    (install,) = [line for line in _lines("RUN") if "pip install" in line]
    extras = re.search(r"\.\[(.*)\]", install)[1].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    (command,) = _lines("CMD")
    assert yaml.safe_load(command)[0] in PROJECT["scripts"]
    assert _lines("USER") == ["ttame"]  # not root, and made before
    assert any("useradd" in line and "ttame" in line for line in _lines("RUN"))
    names = [name for name, _ in LINES]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")


def test_what_is_copied_runs_alone(app: Path) -> None:
    assert (app / PROJECT["readme"]).is_file()
    for deployment in DEPLOYED:
        assert (app / deployment["parameters"]["spec"]).is_file()
    entrypoints = [d["entrypoint"].replace("/", ".").split(".py:") for d in DEPLOYED]
    code = "\n".join(f"from {module} import {flow}" for module, flow in entrypoints)
    code += (
        "\nfrom ttame_core.lake import Lake; from ttame_core.lake.query.connection import run_query"
    )
    code += "\nimport ttame_core, tasks; print(ttame_core.__file__, tasks.__file__)"
    code += "\nrun_query(Lake('workspace'), 'FROM leaderboard')"  # its .sql files
    code += "\nfrom flows.cli import app; app(['audit', 'examples/shapes.yaml', '--dry-run'])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=app,
        env=os.environ | {"PYTHONPATH": str(app)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split()[:2] == [
        str(app / "ttame_core/__init__.py"),
        str(app / "tasks/__init__.py"),
    ]
