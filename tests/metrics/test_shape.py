"""Complexity, Gini index and thumbnails by hand, against numpy, and in SQL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scoring import SHARD, Brightness, maker, score
from torch.nn import functional as F

from ttame_core.backbones import Backbone
from ttame_core.lake import Lake, maps_file
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics import REGISTRY, complexity, pearson, sparseness, thumbnails
from ttame_core.stages.explain import read_maps

grids = hnp.arrays(np.float32, (5, 7), elements=st.floats(0, 1, width=16))


def test_by_hand() -> None:
    maps = torch.zeros(3, 2, 2)
    maps[0, 0, 0] = 1  # one of four: G = 1 - 2 · 1/8
    maps[1] = 1
    assert complexity(maps).tolist() == [0.25, 1, 0]
    assert torch.allclose(sparseness(maps), torch.tensor([0.75, 0, 0]))


def _gini(values: np.ndarray) -> float:
    """Half the relative mean absolute difference."""
    return np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())


@settings(max_examples=60, deadline=None)
@given(grids, st.floats(0.1, 10))
def test_gini_is_half_the_mean_difference_at_any_scale(heat: np.ndarray, scale: float) -> None:
    maps = torch.from_numpy(heat)[None]
    expected = _gini(heat.ravel().astype(np.float64)) if heat.any() else 0
    assert sparseness(maps).item() == pytest.approx(expected, abs=1e-5)
    assert sparseness(maps * scale).item() == pytest.approx(expected, abs=1e-5)


def test_the_inner_product_of_thumbnails_is_a_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.stack([torch.rand(14, 14, generator=generator) for _ in range(3)])
    maps[2] = 0.3
    found = thumbnails(maps)
    assert (found[0] @ found[1]).item() == pytest.approx(
        np.corrcoef(maps[0].flatten(), maps[1].flatten())[0, 1], abs=1e-5
    )
    assert found[0].norm().item() == pytest.approx(1)
    assert not found[2].any()
    fine = maps[:2].repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)  # 56×56
    assert (thumbnails(fine)[0] @ found[0]).item() > 0.95
    assert thumbnails(torch.rand(1, 7, 9)).shape == (1, 196)


def test_rows_and_their_sql(drawn: tuple[Lake, str], tiny: Backbone) -> None:
    lake, dataset = drawn
    makers = {"brightness": Brightness, "random": maker("random", tiny)}
    rows = score(drawn, tiny, makers, [REGISTRY["shape"]()])
    maps = {
        name: torch.stack([heat for _, heat in read_maps(lake, maps_file(dataset, *place))])
        for name in makers
        for place in [(tiny.name, name, SHARD)]
    }
    for name, stored in maps.items():
        found = [row["complexity"] for row in rows["shape", name]]
        assert found == pytest.approx(stored.mean(dim=(1, 2)).tolist(), abs=1e-5)
    board = run_query(
        lake,
        "SELECT explainer, metric, value FROM leaderboard "
        f"WHERE backbone = '{tiny.name}' AND metric IN ('complexity', 'sparseness')",
    ).to_pylist()
    values = {(row["explainer"], row["metric"]): row["value"] for row in board}
    for name in makers:
        for metric in ("complexity", "sparseness"):
            expected = np.mean([row[metric] for row in rows["shape", name]])
            assert values[name, metric] == pytest.approx(expected)
    alike = run_query(
        lake,
        "SELECT key, list_inner_product(a.thumbnail, b.thumbnail) AS r "
        "FROM shape AS a JOIN shape AS b USING (backbone, key, target) "
        f"WHERE backbone = '{tiny.name}' AND a.explainer = 'brightness' "
        "AND b.explainer = 'random' ORDER BY key",
    ).to_pylist()
    assert len(alike) == 12
    small = [
        F.interpolate(m[:, None], (14, 14), mode="bilinear", antialias=True)[:, 0]
        for m in maps.values()
    ]
    keys = [row["key"] for row in rows["shape", "random"]]
    expected = dict(zip(keys, pearson(*small).tolist(), strict=True))
    for row in alike:
        assert row["r"] == pytest.approx(expected[row["key"]], abs=1e-4)
