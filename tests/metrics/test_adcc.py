"""ADCC by hand, and over a shard against one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scoring import SHARD, Brightness, Constant, maker, score
from tiny import PLAIN
from torch.nn import functional as F

from ttame_core.backbones import Backbone
from ttame_core.data.loader import load_batches
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics import REGISTRY, coherency
from ttame_core.metrics.adcc import adcc
from ttame_core.perturbation.masking import min_max, resize


def test_by_hand() -> None:
    parts = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.8, 0.4, 0.2], [0.0, 0.3, 0.3]])
    found = adcc(*parts.T)
    assert torch.allclose(found, torch.tensor([1.0, 0.5, 0.72, 0.0]))
    assert adcc(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([0.0])) == 0
    ramp = torch.linspace(0, 1, 16).view(1, 4, 4)
    assert coherency(ramp, ramp * 3 + 1).item() == pytest.approx(1)
    assert coherency(ramp, 1 - ramp).item() == pytest.approx(0, abs=1e-6)
    assert coherency(ramp, torch.zeros(1, 4, 4)) == 0.5  # no correlation with a flat map


shares = st.floats(0, 1)


@given(shares, shares, shares)
def test_between_its_worst_and_its_best_part(alike: float, area: float, lost: float) -> None:
    found = adcc(*(torch.tensor([x], dtype=torch.float64) for x in (alike, area, lost))).item()
    parts = alike, 1 - area, 1 - lost
    assert min(parts) - 1e-9 <= found <= max(parts) + 1e-9


def test_rows_and_their_sql(drawn: tuple[Lake, str], tiny: Backbone) -> None:
    lake, _ = drawn
    makers = {"brightness": Brightness, "constant": Constant, "oracle": maker("oracle", tiny)}
    rows = score(drawn, tiny, makers, [REGISTRY["adcc"]()])
    batch = next(load_batches(*drawn, [SHARD], PLAIN, 12, 2))
    images = batch.float_images()
    for i, row in enumerate(rows["adcc", "brightness"]):
        with torch.no_grad():
            logits = tiny(tiny.normalise(images[i : i + 1]))
        assert row["target"] == logits.argmax()

        def grey(image: torch.Tensor, logit: torch.Tensor) -> torch.Tensor:
            return min_max(F.adaptive_avg_pool2d(image.mean(dim=1, keepdim=True), 8) * logit)

        heat = grey(images[i : i + 1], logits.max())
        masked = images[i : i + 1] * resize(heat, (64, 64))
        with torch.no_grad():
            after = tiny(tiny.normalise(masked))
        again = grey(masked, after[0, row["target"]])
        r = stats.pearsonr(heat.numpy().ravel(), again.numpy().ravel()).statistic
        assert row["coherency"] == pytest.approx((1 + r) / 2, abs=2e-3)
        assert row["complexity"] == pytest.approx(heat.mean().item(), abs=1e-3)
        p, q = (x.softmax(dim=1)[0, row["target"]].item() for x in (logits, after))
        assert row["drop"] == pytest.approx(max(0, p - q) / p, abs=2e-3)
    for name in ("constant", "oracle"):
        assert [row["coherency"] for row in rows["adcc", name]] == pytest.approx([1] * 12)
    board = run_query(
        lake,
        f"FROM leaderboard WHERE backbone = '{tiny.name}' AND metric IN ('ADCC', 'coherency')",
    ).to_pylist()
    values = {(row["explainer"], row["metric"]): row["value"] for row in board}
    for name in makers:
        found = rows["adcc", name]
        columns = (
            torch.tensor([row[c] for row in found]) for c in ("coherency", "complexity", "drop")
        )
        assert values[name, "ADCC"] == pytest.approx(100 * adcc(*columns).mean().item(), abs=1e-3)
        expected = np.mean([row["coherency"] for row in found])
        assert values[name, "coherency"] == pytest.approx(expected)
