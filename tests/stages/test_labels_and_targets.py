"""Images of several labels: what is explained, what counts as right, and where it should look."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import shard_all, tiny_backbone

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.outputs import Outputs
from ttame_core.data.labels import UNKNOWN
from ttame_core.explainers import REGISTRY
from ttame_core.lake import Lake, maps_file
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.stages.evaluate import WantedScores, evaluate_shard
from ttame_core.stages.explain import WantedMaps, explain_shard, own_label, read_maps
from ttame_core.stages.shard import StoredShard

COMPUTE = spec.Compute(batch_size=4, workers=1)


@pytest.fixture
def pairs(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    source = {"kind": "shapes", "train": 0, "val": 0, "test": 10, "size": 64, "labels": 2}
    shard_all(spec.Dataset(name="pairs", source=source), lake)
    return lake


def _audit(lake: Lake, backbone: Backbone, explainers: list[str], targets: str) -> None:
    shard = StoredShard(lake, "pairs", "test-000000")
    made = {name: REGISTRY[name](backbone) for name in explainers}
    explain_shard(shard, backbone, [WantedMaps(n, e, n) for n, e in made.items()], targets, COMPUTE)
    wanted = [WantedScores(n, FAMILIES["localization"](), n) for n in made]
    evaluate_shard(shard, backbone, wanted, {n: lambda model: None for n in made}, COMPUTE)


def test_each_label_is_explained_and_compared_with_its_own_object(pairs: Lake) -> None:
    backbone = tiny_backbone()
    backbone.outputs = Outputs("sigmoid")
    with torch.no_grad():
        backbone.model.fc.bias += 20  # all classes are predicted
    _audit(pairs, backbone, ["oracle", "random"], "label")
    index = {r["key"]: r for r in pairs.read_table("datasets/pairs/index.parquet").to_pylist()}
    rows = [
        r for r, _ in read_maps(pairs, maps_file("pairs", backbone.name, "oracle", "test-000000"))
    ]
    assert {(r["key"], r["target"]) for r in rows} == {
        (key, label) for key, row in index.items() for label in row["labels"]
    }
    assert all(row["label"] == row["predicted"] == row["target"] for row in rows)
    sql = "SELECT explainer, avg(pointing_game::INT) AS share, count(*) AS maps FROM localization"
    found = run_query(pairs, f"{sql} GROUP BY ALL").to_pylist()
    scores = {row["explainer"]: (row["share"], row["maps"]) for row in found}
    assert scores["oracle"] == (1, 20)
    assert scores["random"][0] < 0.5
    _audit(pairs, backbone, ["oracle"], "predicted")  # all ten classes: eight have no object
    maps = maps_file("pairs", backbone.name, "oracle", "test-000000")
    assert pairs.parquet_rows(maps) == 20


def test_accuracy_asks_whether_the_most_probable_class_is_a_label(pairs: Lake) -> None:
    backbone = tiny_backbone()
    with torch.no_grad():
        backbone.model.fc.bias[3] += 100
    _audit(pairs, backbone, ["gradcam"], "predicted")
    index = pairs.read_table("datasets/pairs/index.parquet").to_pylist()
    sql = "SELECT key, value FROM metric_values WHERE metric = 'accuracy'"
    found = {row["key"]: row["value"] for row in run_query(pairs, sql).to_pylist()}
    assert found == {row["key"]: 100.0 * (3 in row["labels"]) for row in index}


def test_the_label_that_a_prediction_is_compared_with() -> None:
    labels = torch.tensor([[2, 5], [2, 5], [UNKNOWN, 5], [UNKNOWN, UNKNOWN]])
    predicted = torch.tensor([5, 4, 2, 2])
    assert own_label(labels, predicted).tolist() == [5, 2, 5, UNKNOWN]
