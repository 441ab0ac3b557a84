"""The package of examples/plugin, installed: an audit with its explainer and its metric."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
# by_hand: of the maps of `center`, whose middle is the image's.
QUESTION = """
WITH board AS (FROM leaderboard WHERE metric = 'centroid_distance'),
distances AS (
    SELECT key, min(list_distance([x0 + x1, y0 + y1]::FLOAT[], [64, 64]) / 2) AS pixels
    FROM boxes WHERE key IN (SELECT key FROM centroid) GROUP BY key
)
SELECT (SELECT map_from_entries(list((explainer, images))) FROM board) AS images,
       (SELECT value FROM board WHERE explainer = 'center') AS value,
       (SELECT 100 * avg(pixels) / sqrt(2 * 64 * 64) FROM distances) AS by_hand,
       (SELECT unit FROM metrics WHERE family = 'centroid') AS unit,
       (SELECT count(*) FROM maps) AS maps
"""


def test_an_audit_with_both(
    ttame: Callable[..., subprocess.CompletedProcess],
    edit_spec: Callable[..., Path],
    tmp_path: Path,
) -> None:
    sources = shutil.copytree(ROOT / "examples/plugin", tmp_path / "plugin")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *OFFLINE]
    subprocess.run([*pip, "--target", site, sources], check=True)

    def ttame_with_it(*arguments: object) -> subprocess.CompletedProcess[str]:
        return ttame(*arguments, PYTHONPATH=str(site))

    def both(spec: dict) -> None:
        spec["backbones"][0]["preprocessing"] = {"input_size": [64, 64], "crop_pct": 1}
        spec["explainers"] = [{"feature-norm": {"order": 1}}, "center"]
        spec["evaluation"] = {"metrics": ["shape", {"centroid": {"images": 12}}]}

    spec = edit_spec(both)
    result = ttame_with_it("audit", spec)
    assert result.returncode == 0, result.stderr
    assert "centroid_distance" in result.stdout
    (record,) = (tmp_path / "workspace/audits/small").glob("*/record.json")
    assert json.loads(record.read_text())["versions"]["ttame-example"] == "0.1.0"
    assert "centroid_distance" in record.with_name("report.html").read_text()

    answer = ttame_with_it("query", QUESTION, "--format", "json")
    assert answer.returncode == 0, answer.stderr
    (found,) = json.loads(answer.stdout)
    assert dict(found["images"]) == {"feature-norm": 12, "center": 12}
    assert found["unit"] == "%"
    assert found["maps"] == 32
    assert math.isclose(found["value"], found["by_hand"], rel_tol=1e-4)

    listed = "".join(ttame_with_it(name).stdout for name in ("explainers", "metrics"))
    assert "feature-norm" in listed
    assert "order: 2.0" in listed
    assert "centroid_distance ↓" in listed

    # Where it is broken, who asks is told of the package; who does not is not disturbed.
    (site / "ttame_example/feature_norm.py").write_text("import not_there\n")
    broken = ttame_with_it("explainers")
    assert broken.returncode == 2
    assert "feature-norm = ttame_example.feature_norm:FeatureNorm" in broken.stderr
    assert "of ttame-example cannot be loaded" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert ttame_with_it("query", "FROM centroid").returncode == 0
