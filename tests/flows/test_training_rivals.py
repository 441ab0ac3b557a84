"""An audit with every trained explainer, on a network, a transformer and a black box."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY_VIT, shard_all

from tasks.training import train_one
from ttame_core import spec
from ttame_core.audits.specification import open_spec
from ttame_core.explainers import NotApplicable
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query
from ttame_core.stages.provenance import Provenance

Run = Callable[..., subprocess.CompletedProcess]

BOX = """
import torch

def box(path):
    return torch.jit.load(path)
"""


def _with_all_trained(folder: Path) -> Callable[[dict], None]:
    def change(spec: dict) -> None:
        net = spec["backbones"][0]
        vit = timm.create_model("vit_tiny_patch16_224", num_classes=10, **TINY_VIT)
        save_file(vit.state_dict(), folder / "vit.safetensors")
        torch.jit.trace(vit.eval(), torch.rand(1, 3, 64, 64)).save(folder / "box.pt")
        (folder / "blackbox.py").write_text(BOX)
        view = {"preprocessing": {"input_size": [64, 64], "mean": [0.5] * 3, "std": [0.25] * 3}}
        spec["backbones"] += [
            {
                "model": "vit_tiny_patch16_224",
                "name": "vit",
                "checkpoint": "${here}/vit.safetensors",
                "args": TINY_VIT,
                **view,
            },
            {
                "model": "blackbox:box",
                "name": "box",
                "args": {"path": str(folder / "box.pt")},
                "taps": [],
                **view,
            },
        ]
        auxiliary = {k: v for k, v in net.items() if k != "name"}
        spec["explainers"] = [
            "ttame",
            "tame",
            {"lcam_img": {"training": {"epochs": 1}}},
            "lcam_fm",
            {"ptame": {"auxiliary": auxiliary}},
        ]
        spec["dataset"]["source"].update(train=16, test=8)
        spec["evaluation"] = {"metrics": [{"confidence": {"keep": [50]}}]}

    return change


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_all_of_them_are_trained_and_explain(
    ttame: Run,
    edit_spec: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    spec_file = edit_spec(_with_all_trained(tmp_path))
    monkeypatch.setenv("TTAME_TRUST", "blackbox:box")
    result = ttame("audit", spec_file, TTAME_TRUST="blackbox:box")
    assert result.returncode == 0, result.stderr
    workspace = tmp_path / "workspace"
    heads = {(p.parts[-3], p.parts[-2]) for p in workspace.glob("heads/*/*/*/head.safetensors")}
    applies = {
        "net": {"ttame", "tame", "lcam_img", "lcam_fm", "ptame"},
        "vit": {"ttame", "lcam_img", "ptame"},
        "box": {"ptame"},
    }
    expected = {(b, e) for b, explainers in applies.items() for e in explainers}
    assert heads == {(f"backbone={b}", f"explainer={e}") for b, e in expected}

    lake = Lake(workspace)
    counts = run_query(lake, "SELECT backbone, explainer, count(*) AS n FROM maps GROUP BY ALL")
    assert {(row["backbone"], row["explainer"]) for row in counts.to_pylist()} == expected
    assert set(counts.column("n").to_pylist()) == {8}
    refused = run_query(
        lake, "SELECT DISTINCT backbone, explainer FROM refusals WHERE reason <> ''"
    )
    assert len(refused) == 3 * 5 - len(expected)
    steps = "SELECT explainer, max(step) AS n FROM heads WHERE backbone = 'net' GROUP BY ALL"
    assert {row["explainer"]: row["n"] for row in run_query(lake, steps).to_pylist()} == {
        e: 2 if e == "lcam_img" else 4 for e in applies["net"]
    }
    monkeypatch.chdir(tmp_path)  # where the black box's module is
    undone = [work for work in Provenance(open_spec(spec_file), lake).work() if not work.done]
    assert undone == []  # refusals count as done


@pytest.mark.long
def test_several_processes_train_them(spec_file: Path, tmp_path: Path) -> None:
    audit = open_spec(spec_file)
    compute = audit.compute.model_copy(update={"device": "cpu", "devices": 2})
    audit = audit.model_copy(update={"compute": compute})
    provenance = Provenance(audit, Lake(tmp_path / "workspace"))
    shard_all(audit.dataset, provenance.lake)
    (net,) = audit.backbones
    steps: list[int] = []
    lcam = spec.Explainer(method="lcam_fm")
    train_one(provenance, net, lcam, "head", lambda done, total, text: steps.append(done))
    assert steps == list(range(1, 9))
    weights = load_file(tmp_path / "workspace/head/head.safetensors")
    assert weights["fuser.weight"].shape == (10, 32, 1, 1)
    box = net.model_copy(update={"taps": []})  # what a member finds is told here
    with pytest.raises(NotApplicable, match="only the logits of net can be seen"):
        train_one(provenance, box, lcam, "head", lambda *progress: None)


def test_they_are_swept(ttame: Run, edit_spec: Callable[..., Path], tmp_path: Path) -> None:
    def change(spec: dict) -> None:
        spec["explainers"] = [{"lcam_img": {"training": {"epochs": 1, "learning_rate": 0.02}}}]

    spec_file = edit_spec(change)
    assert ttame("shard", spec_file).returncode == 0
    result = ttame("sweep", spec_file, "--trials", "2")
    assert result.returncode == 0, result.stderr
    sql = "SELECT DISTINCT trial, explainer, learning_rate FROM sweeps ORDER BY trial"
    first, second = run_query(Lake(tmp_path / "workspace"), sql).to_pylist()
    assert (first["explainer"], first["learning_rate"]) == ("lcam_img", 0.02)
    assert second["learning_rate"] != 0.02
