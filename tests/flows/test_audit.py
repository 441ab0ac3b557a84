"""The whole audit through the command line and a real Prefect server."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import torch
from PIL import Image
from prefect_server import ask
from safetensors.torch import load_file

Run = Callable[..., subprocess.CompletedProcess]


def _newest(server: dict[str, str], key: str) -> dict:
    wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    (artifact,) = ask(server, "artifacts/filter", wanted)
    return artifact


def _files(workspace: Path) -> dict[str, int]:
    return {
        str(p): p.stat().st_mtime_ns
        for p in workspace.rglob("*")
        if p.is_file() and "audits" not in p.parts
    }


def test_audit_ends_with_leaderboard_report_and_artifact(
    ttame: Run, spec_file: Path, tmp_path: Path, server: dict[str, str]
) -> None:
    begun = datetime.now(UTC).isoformat()
    result = ttame("audit", spec_file)
    assert result.returncode == 0, result.stderr
    workspace = tmp_path / "workspace"

    (folder,) = (workspace / "audits/small").iterdir()
    names = {p.name for p in folder.iterdir()}
    assert {"spec.yaml", "leaderboard.parquet", "report.html", "contact-sheet.png"} <= names
    board = pq.read_table(folder / "leaderboard.parquet").to_pylist()
    metrics = {(row["explainer"], row["metric"]) for row in board}
    for explainer in ("ttame", "gradcam", "random", "oracle"):
        for metric in ("AD@100", "AD@50", "AD@15", "IC@15", "AG@15", "pointing_game"):
            assert (explainer, metric) in metrics
    assert {("-", "accuracy"), ("-", "discrimination")} <= metrics
    assert all(row["images"] == 16 for row in board)
    assert "AD@15" in result.stdout
    answers = json.loads((folder / "answers.json").read_text())
    for line, own in zip(result.stdout.splitlines()[-4:], answers, strict=True):
        assert line.startswith(own["question"])
        assert line.rstrip().endswith(own["short"])
    assert str(folder.relative_to(tmp_path)) in result.stderr + result.stdout

    files = f"{workspace}/explainers/*/*/*/role.parquet"
    roles = duckdb.sql(f"SELECT method, role FROM read_parquet('{files}') ORDER BY method")
    assert roles.fetchall() == [
        ("gradcam", "rival"),
        ("oracle", "yardstick"),
        ("random", "yardstick"),
        ("ttame", "rival"),
    ]

    confidence = f"{workspace}/scores/metric=confidence/*/*/*/*.parquet"
    scores = duckdb.sql(f"SELECT count(*), count(DISTINCT key) FROM '{confidence}'").fetchall()
    assert scores == [(16 * 4 * 3, 16)]

    artifacts = ask(
        server, "artifacts/filter", {"artifacts": {"key": {"like_": "small-leaderboard"}}}
    )
    assert any("AD@15" in artifact["data"] for artifact in artifacts)
    gallery, link = (_newest(server, key) for key in ("small-gallery", "small-report"))
    assert str(folder) in gallery["description"]
    _, _, picture = gallery["data"].partition("](data:image/webp;base64,")
    with Image.open(io.BytesIO(base64.b64decode(picture.partition(")")[0]))) as sheet:
        assert (sheet.width > 570, sheet.height > 760) == (True, True)  # 3 × 4 tiles of 200 pixels
    assert len(gallery["data"]) < 500_000
    assert (folder / "report.html").as_uri() in link["data"]
    for words in ("Can the explanations be trusted?", "What changed?", "AD@15 ↓", "first audit"):
        assert words in link["data"]
    for stage in ("train-heads", "train-ttame-on-net", "explain", "evaluate"):
        assert float(_newest(server, stage)["data"]) == 100.0
    of_audit = {"flow_runs": {"expected_start_time": {"after_": begun}}}  # and not of other tests
    flows = ask(server, "flow_runs/filter", {"limit": 200, **of_audit})
    assert {"audit small", "explain small"} <= {run["name"] for run in flows}
    named = [run for run in flows if run["name"].endswith(" small")]  # Prefect names some small-fox
    assert all({"ttame", "small"} <= {*run["tags"]} for run in named)
    runs = ask(server, "task_runs/filter", {"limit": 200})
    of_net = {run["name"]: run["tags"] for run in runs if run["name"].endswith(" net")}
    assert "explain test-000000 of net" in of_net
    assert not any(of_net.values())  # the server would be asked whether a tag has a limit

    # run again: nothing is done again
    before = _files(workspace)
    assert ttame("audit", spec_file).returncode == 0
    assert _files(workspace) == before

    # and the lake answers questions
    answer = ttame("query", "SELECT count(*) AS n FROM maps", "--format", "csv")
    assert answer.stdout.split() == ["n", "64"]
    key = ttame("query", "SELECT min(key) FROM maps", "--format", "csv").stdout.split()[1]
    shown = ttame("show", key, "--output", tmp_path / "shown.png")
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "shown.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_backbone_does_not_stop_the_others(
    ttame: Run, edit_spec: Callable[..., Path], tmp_path: Path
) -> None:
    def with_broken(spec: dict) -> None:
        broken = spec["backbones"][0] | {"name": "broken", "args": {"stem_width": 16}}
        spec["backbones"].insert(0, broken)
        spec |= {"explainers": ["ttame", "random"], "evaluation": {"metrics": ["shape"]}}

    result = ttame("audit", edit_spec(with_broken))
    assert result.returncode == 2
    assert "backbone broken failed" in result.stderr
    told, _, later = result.stderr.partition("backbone broken cannot be audited, the others can")
    assert "shards in" not in told  # before the first stage
    assert "shards in" in later
    assert "another architecture" in result.stderr
    assert "Traceback" not in result.stderr
    workspace = tmp_path / "workspace"
    assert list(workspace.glob("scores/*/*/backbone=net/explainer=ttame/*.parquet"))
    assert not list(workspace.glob("maps/*/backbone=broken/**/*.parquet"))
    (report,) = workspace.glob("audits/small/*/report.html")
    assert "broken" in report.read_text()


def test_dry_run_says_what_is_to_do_and_does_nothing(
    ttame: Run, spec_file: Path, tmp_path: Path
) -> None:
    before = ttame("audit", spec_file, "--dry-run")
    assert before.returncode == 0, before.stderr
    assert not (tmp_path / "workspace").exists()
    assert ttame("shard", spec_file).returncode == 0
    files = _files(tmp_path / "workspace")
    after = ttame("audit", spec_file, "--dry-run")
    assert _files(tmp_path / "workspace") == files
    lines = {line.split()[0]: line for line in after.stdout.splitlines() if line.strip()}
    assert "net" in lines["train"]
    assert before.stdout != after.stdout
    for words in ("In all about", "passes of an image", "that are free"):
        assert words in after.stdout


def test_a_given_head_is_taken_and_a_head_is_exported(
    ttame: Run, edit_spec: Callable[..., Path], spec_file: Path, tmp_path: Path
) -> None:
    for stage in ("shard", "train"):
        assert ttame(stage, spec_file, "--workspace", "first").returncode == 0
    (trained,) = (tmp_path / "first/heads").rglob("head.safetensors")
    (tmp_path / "given.safetensors").write_bytes(trained.read_bytes())
    export = ["export-head", spec_file, "--backbone", "net", "--output", "net.onnx"]
    assert ttame(*export, "--workspace", "first").returncode == 0
    assert (tmp_path / "net.onnx").stat().st_size > 10_000

    edit_spec(lambda s: s["backbones"][0].update(head="${here}/given.safetensors"))
    for stage in ("shard", "train"):
        result = ttame(stage, spec_file)
        assert result.returncode == 0, result.stderr
    (taken,) = (tmp_path / "workspace/heads").rglob("head.safetensors")
    tensors, expected = load_file(taken), load_file(trained)
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    assert ttame("query", "SELECT * FROM heads").returncode == 0

    (tmp_path / "given.safetensors").write_bytes(b"nothing")
    result = ttame("train", spec_file)
    assert result.returncode == 2
    assert "given.safetensors does not fit backbone net" in result.stderr
