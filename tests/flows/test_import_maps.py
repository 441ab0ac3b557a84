"""Explainers that do not apply, and maps from elsewhere, in the lake and on the leaderboard."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from safetensors.torch import save_file
from tiny import TINY_VIT

Run = Callable[..., subprocess.CompletedProcess]


def _query(ttame: Run, sql: str) -> list[dict]:
    answer = ttame("query", sql, "--format", "json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_a_refusal_and_imported_maps(
    ttame: Run, edit_spec: Callable[..., Path], tmp_path: Path
) -> None:
    def vit(spec: dict) -> None:
        model = "vit_tiny_patch16_224"
        net = timm.create_model(model, num_classes=10, **TINY_VIT)
        save_file(net.state_dict(), tmp_path / "net.safetensors")
        spec["backbones"][0].update(model=model, args=TINY_VIT)
        spec["explainers"] = ["deeplift", "center"]
        spec["evaluation"] = {"metrics": ["localization"]}

    torch.manual_seed(0)
    path = edit_spec(vit)
    result = ttame("audit", path)
    assert result.returncode == 0, result.stderr
    (refusal,) = _query(ttame, "FROM refusals")
    assert (refusal["backbone"], refusal["explainer"]) == ("net", "deeplift")
    assert "do not add up" in refusal["reason"]
    counts = _query(ttame, "SELECT explainer, count(*) AS n FROM maps GROUP BY ALL")
    assert counts == [{"explainer": "center", "n": 16}]

    # The centre's own maps brought in as someone else's: all but one.
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    rows = [
        row
        for file in (tmp_path / "workspace/maps").glob("*/*/explainer=center/*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]
    for row in rows[1:]:
        heat = np.array(row["map"], np.float32).reshape(row["height"], row["width"])
        np.save(theirs / f"{row['key']}.npy", 3 * heat)
    result = ttame("import-maps", theirs, path, "--name", "theirs", "--backbone", "net")
    assert result.returncode == 0, result.stderr
    assert "theirs" in result.stdout
    scores = _query(
        ttame, "SELECT metric, explainer, images FROM leaderboard WHERE metric = 'pointing_game'"
    )
    assert {r["explainer"]: r["images"] for r in scores} == {"center": 16, "theirs": 15}
    differing = _query(
        ttame,
        "SELECT count(*) AS n FROM maps a JOIN maps b USING (key) WHERE a.explainer = 'center' "
        "AND b.explainer = 'theirs' AND list_distance(a.map, b.map) > 0.1",
    )
    assert differing == [{"n": 0}]

    for arguments, words in (
        (["none", path, "--name", "x"], ["no maps at none"]),
        ([theirs, path, "--name", "center"], ["center already", "--name"]),
        ([theirs, path, "--name", "a b"], ["--name a b"]),
        ([theirs, path, "--name", "x", "--backbone", "nett"], ["no backbone nett", "mean net"]),
    ):
        result = ttame("import-maps", *arguments)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert all(word in result.stderr for word in words), result.stderr
