"""What an audit will take, beside what it took."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from audited import fill_alone, spec_alone

from ttame_core import spec
from ttame_core.audits import forecast as module
from ttame_core.audits.forecast import Effort, forecast
from ttame_core.backbones import load_backbone
from ttame_core.lake import Lake

IMAGES = {"train": 40, "test": 16}


def test_passes_are_those_that_the_audit_makes(tmp_path: Path) -> None:
    audit = spec_alone(tmp_path, ["gradcam", "random", {"rise": {"masks": 3 * module.FEW}}])
    fill_alone(audit, Lake(tmp_path / "workspace"))
    (section,) = audit.backbones
    found = forecast(audit, section, load_backbone(section), IMAGES)
    costs = f"{tmp_path}/workspace/scores/metric=cost/*/*/*/*.parquet"
    took = duckdb.sql(
        "SELECT explainer, sum(forward_passes), sum(backward_passes), count(*) "
        f"FROM '{costs}' GROUP BY ALL"
    ).fetchall()
    assert {name for name, *_ in took} == {"gradcam", "random", "rise"}
    for name, forward, backward, images in took:
        effort = found["explain", "net", name]
        assert (effort.forward, effort.backward) == pytest.approx((forward, backward))
        assert effort.images == images
        files = (tmp_path / "workspace/maps").rglob(f"explainer={name}/*.parquet")
        size = sum(path.stat().st_size for path in files)
        assert size / 4 < effort.bytes < 20 * size  # small files are mostly header
        scored = found["evaluate", "net", name]
        assert scored.forward == images * 3  # AD, IC and AG at three shares of the pixels
        assert scored.seconds > 0


@pytest.mark.parametrize(("keep_gib", "first"), [(1, 40), (1e-6, 120), (0, 120)])
def test_a_training_takes_its_steps(tmp_path: Path, keep_gib: float, first: int) -> None:
    audit = spec_alone(tmp_path, ["random"])
    settings = {"epochs": 3, "min_steps": 0, "batch_size": 8, "keep_gib": keep_gib}
    training = spec.Training(recipe="paper", **settings)
    explainers = [spec.Explainer(method="ttame", settings={"training": {}})]
    audit = audit.model_copy(update={"training": training, "explainers": explainers})
    (section,) = audit.backbones
    effort = forecast(audit, section, load_backbone(section), IMAGES)["train", "net", "ttame"]
    assert effort.images == 3 * 40
    assert (effort.forward, effort.backward) == (first + 120, 120)


def test_a_share_of_an_effort_and_two_together() -> None:
    effort = Effort(10, 20.0, 4.0, 6.0, 100.0)
    assert effort.times(0.5).plus(effort) == Effort(15, 30.0, 6.0, 9.0, 150.0)
