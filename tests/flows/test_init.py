"""`ttame init`: from a folder of pictures to a spec that runs."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import PATIENCE
from tiny import jpeg

from ttame_core.audits.specification import open_spec

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    for number in range(24):
        path = tmp_path / f"birds/{'heron' if number % 2 else 'teal'}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(colour=f"#{9999 * number:06x}"))
    return tmp_path / "birds"


def test_a_spec_for_a_folder(ttame: Run, birds: Path, tmp_path: Path) -> None:
    (birds / "teal/broken.jpg").write_bytes(b"")
    made = ttame("init", birds)
    assert made.returncode == 0, made.stderr
    assert "25 images in 2 classes" in made.stdout
    assert "teal/broken.jpg (the file is empty)" in made.stdout
    assert open_spec(tmp_path / "birds.yaml").name == "birds"
    plan = ttame("audit", "birds.yaml", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "small-resnet" in plan.stdout

    (tmp_path / "birds.yaml").write_text("mine")
    again = ttame("init", birds)
    assert again.returncode == 2
    assert "birds.yaml is there already" in again.stderr
    assert (tmp_path / "birds.yaml").read_text() == "mine"
    assert "ttame audit birds.yaml" in made.stderr
    other = ttame("init", birds, "--force", "--backbone", "resnet18")
    assert other.returncode == 0, other.stderr
    (backbone,) = open_spec(tmp_path / "birds.yaml").backbones
    assert (backbone.name, backbone.fit) == ("resnet18", None)
    assert "ttame audit" not in other.stderr  # its classes are no birds of these
    assert "before it can be audited: " in other.stderr


def test_no_folder_is_a_mistake(ttame: Run) -> None:
    nothing = ttame("init")
    assert nothing.returncode == 2
    assert "ttame init FOLDER" in nothing.stderr


def test_questions_on_a_terminal(server: dict[str, str], birds: Path, tmp_path: Path) -> None:
    """Asked for a place, a name and classifiers, and answered."""
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", "init"],
        env=server,
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(mine, f"{birds}\nmy-birds\nresnet18, resnet34\n".encode())
    said = b""
    while True:
        try:
            said += os.read(mine, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait(PATIENCE) == 0, said.decode()
    assert b"Where are the images" in said
    audit = open_spec(tmp_path / "my-birds.yaml")
    assert [b.name for b in audit.backbones] == ["resnet18", "resnet34"]
