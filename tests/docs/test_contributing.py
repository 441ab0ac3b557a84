"""CONTRIBUTING.md: each file that it shows is all that its thing takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT
from PIL import Image

SHOWN = re.compile(r"`(ttame_core/[\w/.]+)`:\n\n```\w+\n(.*?)^```$", re.M | re.S)
USED = """
from pathlib import Path
import torch
import ttame_core as tt
from ttame_core import spec
from ttame_core.data.annotations import open_annotations
from ttame_core.data.annotations.base import Picture
from ttame_core.data.sources import open_source
from ttame_core.lake.families import registry
from ttame_core.report.listings import all_explainers, all_families
from ttame_core.training.objectives import objective_of
from tiny import tiny_backbone

backbone = tiny_backbone()
images = torch.rand(2, 3, 64, 64)
maps = tt.explain(backbone, images, "corner")
assert maps.flatten(1).argmax(dim=1).tolist() == [0, 0]
scores = tt.evaluate(backbone, images, maps, ["peak"])
assert scores["peak"].tolist() == [100, 100]
assert "peak" in registry()
assert "corner" in all_explainers()
assert "peak" in all_families()

(entry,) = open_source(
    spec.Source(kind="single", root="pictures", image="a.png", label="cat")
).entries()
assert (entry.label, entry.split, entry.reason) == ("cat", "test", "")

corners = open_annotations(spec.Annotations(kind="corners", path="notes"))
(listed,) = corners.listed()
boxes, _ = corners.annotate(listed, Picture((8, 8), (8, 8), 1), "cat")
assert boxes == [{"name": "cat", "x0": 1, "y0": 2, "x1": 3, "y1": 4}]

logits = torch.tensor([[5.0, 0.0]])
assert objective_of("margin").term(logits, logits, torch.tensor([0])) == 0
"""


def test_a_file_each_is_all_that_it_takes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ttame_core", tmp_path / "ttame_core")
    files = dict(SHOWN.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert len(files) == 6
    for name, text in files.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures/a.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("1 2 3 4\n")
    used = subprocess.run(
        [sys.executable, "-c", USED],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if used.returncode:
        pytest.fail(used.stderr)
