"""Two objects in each picture, of two classes: the map of each class finds its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query

ZOO = Path(__file__).parents[2] / "examples/zoo"
FOUND = """
SELECT list_position(labels, target) AS place, 100 * avg(pointing_game::INT) AS found,
       count(*) AS maps
FROM localization JOIN samples USING (dataset, key)
WHERE explainer = 'ttame' AND target = predicted
GROUP BY place ORDER BY place
"""


@pytest.mark.long
def test_the_map_of_each_class_finds_its_own_object(
    ttame: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    audit = {
        "name": "two",
        "dataset": {
            "name": "two",
            "source": {"kind": "shapes", "train": 2000, "val": 100, "test": 60, "labels": 2},
        },
        "backbones": [
            {
                "name": "net",
                "model": "resnet10t",
                "args": {"channels": [32, 64, 96, 160], "stem_width": 16},
                "checkpoint": str(ZOO / "resnet.safetensors"),
                "preprocessing": {"input_size": [96, 96], "crop_pct": 1.0},
                "outputs": "sigmoid",
                "fit": {
                    "epochs": 6,
                    "batch_size": 64,
                    "optimizer": "muon",
                    "learning_rate": 0.002,
                    "occlusion": 0.6,
                    "crop_scale": 0.8,
                },
            }
        ],
        "training": {"min_steps": 200},
        "explainers": ["ttame"],
        "evaluation": {"metrics": ["localization"]},
        "compute": {"device": "cpu"},
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(audit))
    done = ttame("audit", "two.yaml", "--workspace", "lake")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = run_query(Lake(tmp_path / "lake"), FOUND).to_pylist()
    assert (first["place"], second["place"]) == (1, 2)
    assert min(first["maps"], second["maps"]) > 50  # of 60 pictures: the classifier sees both
    assert min(first["found"], second["found"]) > 90
