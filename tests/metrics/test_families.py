"""ROAD, curves and fills from the maps of a shard to the leaderboard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_backbone

from ttame_core import spec
from ttame_core.explainers import REGISTRY as EXPLAINERS
from ttame_core.lake import Lake, scores_file
from ttame_core.lake.query.connection import connect
from ttame_core.metrics import REGISTRY
from ttame_core.stages.evaluate import WantedScores, evaluate_shard
from ttame_core.stages.explain import WantedMaps, explain_shard
from ttame_core.stages.shard import StoredShard

COMPUTE = spec.Compute(device="cpu", batch_size=5, workers=2)
SHARD, IMAGES = "test-000000", 12
SETTINGS = {
    "road": {"removed": [20, 80]},
    "curves": {"steps": 4, "insertion": ["blur", "zero"]},
    "confidence": {"keep": [15], "fills": ["zero", "blur"]},
}
EXPECTED = {
    *("MoRF", "LeRF", "ROAD", "MoRF/accuracy", "LeRF/accuracy", "ROAD/accuracy"),
    *("insertion", "insertion/zero", "deletion"),
    *("AD@15", "IC@15", "AG@15", "AD@15/blur", "IC@15/blur", "AG@15/blur"),
}


@pytest.fixture(scope="module")
def scored(drawn: tuple[Lake, str]) -> tuple[Lake, str]:
    lake, dataset = drawn
    backbone = tiny_backbone()
    backbone.name = "perturbed"
    maps = [WantedMaps("random", EXPLAINERS["random"](backbone, None, None), {"maps": 1})]
    explain_shard(StoredShard(lake, dataset, SHARD), backbone, maps, "predicted", COMPUTE)
    wanted = [
        WantedScores("random", REGISTRY[name](settings), {"scores": name})
        for name, settings in SETTINGS.items()
    ]
    makers = {"random": lambda model: None}
    evaluate_shard(StoredShard(lake, dataset, SHARD), backbone, wanted, makers, COMPUTE)
    return drawn


def _rows(scored: tuple[Lake, str], family: str) -> list[dict]:
    lake, dataset = scored
    path = scores_file(family, dataset, "perturbed", "random", SHARD)
    return lake.read_table(path).to_pylist()


def test_rows_of_each_map(scored: tuple[Lake, str]) -> None:
    road, curves, confidence = (_rows(scored, family) for family in SETTINGS)
    assert len(road) == IMAGES * 2 * 2
    assert {(row["order"], row["removed"]) for row in road} == {
        (order, removed) for order in ("MoRF", "LeRF") for removed in (20, 80)
    }
    assert all(0 <= row["p"] <= 1 for row in road)
    assert len(curves) == IMAGES * 3
    for row in curves:
        values = np.array(row["probabilities"])
        assert len(values) == 5
        assert np.isclose(row["auc"], ((values[1:] + values[:-1]) / 2).mean(), atol=1e-6)
    assert len(confidence) == IMAGES * 2
    assert {row["fill"] for row in confidence} == {"zero", "blur"}


def test_the_leaderboard_names_them(scored: tuple[Lake, str]) -> None:
    lake, _ = scored
    with connect(lake) as db:
        found = dict(
            db.sql(
                "SELECT metric, value FROM leaderboard WHERE backbone = 'perturbed' "
                "AND explainer = 'random' AND metric NOT LIKE 'cost%'"
            ).fetchall()
        )
    assert found.keys() >= EXPECTED
    assert np.isclose(found["ROAD"], (found["LeRF"] - found["MoRF"]) / 2)
    road = [row for row in _rows(scored, "road") if row["order"] == "MoRF"]
    assert np.isclose(found["MoRF"], 100 * np.mean([row["p"] for row in road]), atol=1e-4)
    assert np.isclose(found["MoRF/accuracy"], 100 * np.mean([row["kept"] for row in road]))


def test_rows_do_not_depend_on_batches(scored: tuple[Lake, str]) -> None:
    lake, dataset = scored
    backbone = tiny_backbone()
    backbone.name = "perturbed"
    before = _rows(scored, "road")
    compute = spec.Compute(device="cpu", batch_size=12, workers=2)
    wanted = [WantedScores("random", REGISTRY["road"](SETTINGS["road"]), {"scores": "again"})]
    evaluate_shard(
        StoredShard(lake, dataset, SHARD), backbone, wanted, {"random": lambda m: None}, compute
    )
    after = _rows(scored, "road")
    assert [row["key"] for row in after] == [row["key"] for row in before]
    assert torch.allclose(
        torch.tensor([row["p"] for row in after]),
        torch.tensor([row["p"] for row in before]),
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("road", {"removed": [0]}),
        ("road", {"removed": []}),
        ("road", {"noise": -1}),
        ("curves", {"steps": 0}),
        ("curves", {"deletion": ["pink"]}),
        ("confidence", {"fills": []}),
    ],
)
def test_settings_that_make_no_sense(family: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        REGISTRY[family](settings)
