"""A small lake with two audits of two classifiers, for what the documentation asks."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from tiny import shard_all, sizes_of, tiny_backbone, tiny_vit

from ttame_core import spec
from ttame_core.audits.record import Outcome, Recorded, write_record
from ttame_core.backbones import Backbone
from ttame_core.explainers import REGISTRY, Explainer
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.files import load_head
from ttame_core.lake import Lake, dataset_file, head_folder
from ttame_core.lake.schemas import REJECTED
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.stages.evaluate import WantedScores, evaluate_shard
from ttame_core.stages.explain import WantedMaps, explain_shard, write_refusal
from ttame_core.stages.shard import StoredShard
from ttame_core.training.head import train_head
from ttame_core.training.orders import TrainingOutput, TrainingShards

COMPUTE = spec.Compute(device="cpu", batch_size=16, workers=2)
EXPLAINERS = ("ttame", "gradcam", "random", "oracle")
SHARD = "test-000000"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `workspace` with everything that an audit leaves, of real but untrained networks."""
    shared = "PYTEST_XDIST_WORKER" in os.environ  # made once for all processes of the tests
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if shared else base) / "docs" / "workspace"
    with FileLock(f"{base.parent if shared else base}/docs.lock"):
        if not place.exists():
            making = place.with_name("making")
            _fill(Lake(making))
            making.rename(place)
    return place


def _fill(lake: Lake) -> None:
    source = {"kind": "shapes", "train": 16, "val": 8, "test": 48, "size": 64}
    dataset = spec.Dataset(name="drawn", source=source)
    shard_all(dataset, lake)
    broken = {"path": "broken.jpg", "kind": "image", "reason": "is no picture"}
    lake.write_parquet(dataset_file("drawn", "rejected.parquet"), [broken], REJECTED, "x")
    backbones = [_varied(tiny_backbone()), _varied(tiny_vit())]
    backbones[1].name = "vit"
    section = {"model": "resnet10t", "pretrained": True}
    audit = spec.AuditSpec(
        name="nightly",
        dataset=dataset,
        backbones=[{**section, "name": backbone.name} for backbone in backbones],
        explainers=list(EXPLAINERS),
        compute=COMPUTE,
    )
    for seed, day in ((0, 1), (1, 2)):
        for backbone in backbones:
            _audit(lake, backbone, seed)
        write_record(lake, audit, Outcome({}, datetime(2026, 1, day, tzinfo=UTC)), _render)
    write_refusal(
        StoredShard(lake, "drawn", SHARD), "vit", "ablation-cam", "x", "it has no feature maps"
    )


def _render(recorded: Recorded) -> None:
    """Stand in for the page and its plots, which take longer than all the rest."""
    with recorded.lake.create(f"{recorded.folder}/report.html") as path:
        path.write_text("<html>")


def _varied(backbone: Backbone) -> Backbone:
    """Without what all noise has in common, so that its images get different classes."""
    with torch.no_grad():
        images = backbone.normalise(torch.rand(32, 3, 64, 64))
        layer = backbone.model.get_classifier()
        layer.bias -= backbone(images).mean(dim=0)
        layer.weight *= 4
    return backbone


def _audit(lake: Lake, backbone: Backbone, seed: int) -> None:
    training = spec.Training(epochs=1, min_steps=0, batch_size=8, seed=seed)
    train, val = (sizes_of(lake, "drawn", split) for split in ("train", "val"))
    folder = head_folder("drawn", backbone.name, "ttame")
    shards = TrainingShards(lake, "drawn", train, val, COMPUTE)
    train_head(shards, TrainingOutput(lake, folder, {"seed": seed}), TTame(backbone), training)

    def made(name: str) -> Explainer:
        explainer = REGISTRY[name](backbone)
        if isinstance(explainer, TTame):
            explainer.use(load_head(lake, folder, explainer))
        return explainer

    maps = [WantedMaps(name, made(name), {"seed": seed, "of": name}) for name in EXPLAINERS]
    explain_shard(StoredShard(lake, "drawn", SHARD), backbone, maps, "predicted", COMPUTE)
    families = [FAMILIES[name]() for name in ("confidence", "localization", "shape")]
    wanted = [WantedScores(n, family, {"seed": seed}) for n in EXPLAINERS for family in families]
    makers = {name: lambda model, name=name: made(name) for name in EXPLAINERS}
    evaluate_shard(StoredShard(lake, "drawn", SHARD), backbone, wanted, makers, COMPUTE)
