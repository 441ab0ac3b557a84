"""Mistakes on the command line: one clear sentence, exit code 2."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess]


def _assert_says(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(bacbones=[]), ["small.yaml", "bacbones", "Did you mean backbones"]),
        (lambda s: s["backbones"][0].update(model="resnet10x"), ["unknown model resnet10x"]),
        (lambda s: s["backbones"][0].update(checkpoint="none.safetensors"), ["none.safetensors"]),
        (lambda s: s["compute"].update(device="cuda:7"), ["cuda:7"]),
        (
            lambda s: s["dataset"].update(source={"kind": "folder", "path": "nowhere"}),
            ["nowhere"],
        ),
        (lambda s: s.update(maps={"targets": [99]}), ["99", "0 to 9"]),
    ],
    ids=["typo", "model", "checkpoint", "device", "folder", "class"],
)
def test_a_mistake_in_the_spec(
    ttame: Run, edit_spec: Callable[..., Path], change: Callable, words: list[str]
) -> None:
    _assert_says(ttame("audit", edit_spec(change)), *words)


def test_a_manifest_that_lists_nothing(
    ttame: Run, edit_spec: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.csv").write_text("path,label,split\n")
    source = {"kind": "manifest", "path": "empty.csv"}
    spec = edit_spec(lambda s: s["dataset"].update(source=source))
    _assert_says(ttame("shard", spec), "has no image that can be used")


def test_missing_spec_and_unset_variable(ttame: Run, tmp_path: Path) -> None:
    _assert_says(ttame("audit", "nowhere.yaml"), "nowhere.yaml")
    (tmp_path / "s.yaml").write_text("name: a\ndataset: {name: '${DATA}'}\n")
    _assert_says(ttame("audit", "s.yaml"), "--var DATA=VALUE")
    _assert_says(ttame("audit", "s.yaml", "--var", "DATA"), "--var DATA=VALUE")


def test_stages_before_their_inputs(ttame: Run, spec_file: Path) -> None:
    _assert_says(ttame("train", spec_file), "ttame shard")


def test_sql_error_and_writing_sql(ttame: Run) -> None:
    _assert_says(ttame("query", "SELEKT 1"), "SELEKT")
    _assert_says(ttame("query", "CREATE TABLE t (a INT)"), "SELECT")
    _assert_says(ttame("query", "SELECT nothing FROM leaderboard"), "nothing")


def test_workspace_that_cannot_be_written(ttame: Run, spec_file: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write everywhere but there
        closed = Path("/proc/closed")
    _assert_says(ttame("shard", spec_file, "--workspace", closed), "closed")


def test_workspace_that_is_a_file(ttame: Run, spec_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _assert_says(ttame("shard", spec_file, "--workspace", tmp_path / "file"), "file")


def test_heads_to_import_and_to_export(ttame: Run, spec_file: Path) -> None:
    _assert_says(ttame("import-head", "none.ckpt", "--backbone", "resnet18"), "none.ckpt")
    export = ["export-head", spec_file, "--output", "net.onnx"]
    _assert_says(ttame(*export, "--backbone", "net"), "ttame shard")
    assert ttame("shard", spec_file).returncode == 0
    _assert_says(ttame(*export, "--backbone", "ned"), "no backbone ned", "Did you mean net")
    _assert_says(ttame(*export, "--backbone", "net"), "ttame train")
