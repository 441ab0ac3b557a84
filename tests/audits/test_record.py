"""A record that is compared with the one before it, wherever the workspace lies."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ttame_core import spec
from ttame_core.audits.record import Outcome, failed_gates, write_record
from ttame_core.lake import Lake, families, maps_file, scores_file
from ttame_core.lake.schemas import INDEX, maps_schema

IMAGES = 24
WHERE = ("d", "net", "quick", "test-000000")
AUDIT = {
    "name": "zoo",
    "dataset": {"name": "d", "source": {"kind": "shapes"}},
    "backbones": [{"name": "net", "model": "resnet18", "pretrained": True}],
    "explainers": [{"method": "gradcam", "name": "quick"}],
    "gates": [{"seconds": {"worse_by": 0.1}}],
}


@pytest.mark.parametrize("away", [False, True], ids=["folder", "object store"])
def test_values_written_after_the_connection_was_opened_are_compared(
    away: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    lake = Lake(request.getfixturevalue("s3").url if away else tmp_path)
    audit = spec.AuditSpec.model_validate(AUDIT)
    samples = [{"key": f"k{i:02d}", "split": "test", "label": 0} for i in range(IMAGES)]
    lake.write_parquet("datasets/d/index.parquet", samples, INDEX, "x")
    about = [{"key": s["key"], "label": 0, "predicted": 0, "target": 0} for s in samples]
    heat = {"probability": 0.5, "height": 1, "width": 1, "map": np.zeros(1, dtype=np.float16)}
    lake.write_parquet(maps_file(*WHERE), [row | heat for row in about], maps_schema(1, 1), "x")
    for day in (1, 2, 3):
        costs = [row | {"seconds": float(day), "forward_passes": 1.0} for row in about]
        lake.write_parquet(scores_file("cost", *WHERE), costs, families.schemas()["cost"], str(day))
        outcome = Outcome({}, datetime(2026, 1, day, tzinfo=UTC))
        folder = write_record(lake, audit, outcome, lambda recorded: None)
        failed = [(r["previous"], r["value"]) for r in failed_gates(lake, folder)]
        assert failed == ([(day - 1, day)] if day > 1 else [])
