"""Every `ttame` line of README.md and docs/*.md is run, in the order of the pages."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from pages import TTAME, commands
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess]

# Not here, and why.
ELSEWHERE = {
    r"s3://my-bucket": "a bucket: test_audit_on_s3.py",
    r"mlflow\.example": "a server of its own: test_exports.py has one in a file",
    r"shapes_rivals|field3_rivals": "hours; test_paper_table.py and test_spec.py read such specs",
    r"centroid": "of the example plug-in: test_example_plugin.py",
}
NAMES = ("resnet50", "vit_base_patch16_224")
LIKE = {"resnet50.a1_in1k": NAMES[0], "torchvision-swin_t": NAMES[1]}
EXPLAINERS = ["ttame", {"gradcam": {"name": "rise"}}, "gradcam", "random", "oracle"]
QUESTION = "SELECT count(*) AS n FROM maps"


def _lines() -> list[str]:
    lines = dict.fromkeys(line.text for line in commands(TTAME))
    return [line for line in lines if not any(re.search(what, line) for what in ELSEWHERE)]


def _spec(spec_file: Path, backbones: tuple[str, ...]) -> None:
    spec = yaml.safe_load(spec_file.read_text())
    net = spec["backbones"][0]
    spec |= {"name": "my-audit", "backbones": [net | {"name": b} for b in backbones]}
    spec |= {"explainers": EXPLAINERS, "evaluation": {"metrics": ["confidence", "shape"]}}
    spec["dataset"]["samples_per_shard"] = 32  # a shard for each split, so few tasks
    (spec_file.parent / "my-audit.yaml").write_text(yaml.safe_dump(spec))


def _pictures(folder: Path) -> None:
    for name in ("finch", "wren"):
        for number in range(12):
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 255, (32, 40, 3), np.uint8)
            Image.fromarray(noise).save(path)


@pytest.mark.slow
def test_every_command_of_the_documentation_runs(
    ttame: Run, spec_file: Path, tmp_path: Path
) -> None:
    """On a small audit of networks with the names of those that the pages speak of."""
    _pictures(tmp_path / "birds")
    _spec(spec_file, NAMES[:1])
    (tmp_path / "question.sql").write_text(QUESTION)
    assert ttame("audit", "my-audit.yaml").returncode == 0
    _spec(spec_file, NAMES)  # so that there is a record before the documented one
    maps = next((tmp_path / "workspace/maps").glob("*/*/explainer=random/*.parquet"))
    shutil.copy(maps, tmp_path / "maps.parquet")
    key = ttame("query", "FROM maps SELECT min(key)", "--format", "csv").stdout.split()[-1]
    for number, line in enumerate(_lines()):
        words = [
            re.sub("KEY…?", key, word)
            .replace("/data/birds", str(tmp_path / "birds"))
            .replace("$(cat question.sql)", QUESTION)
            .replace("birds.yaml", "my-audit.yaml")  # what is drafted takes hours to train
            .replace("birds@", "my-audit@")
            for word in shlex.split(line, comments=True)
        ]
        if words[0] == "compare":
            words = [LIKE.get(word, word) for word in words]
        if words[0] == "init":
            words += ["--yes", "--output", f"drafted-{number}.yaml"]
        result = ttame(*words)
        assert result.returncode == 0, f"ttame {line}: {result.stderr}"
