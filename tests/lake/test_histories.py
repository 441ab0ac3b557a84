"""The view of how heads were trained, over files of today and of earlier versions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ttame_core.lake import Lake
from ttame_core.lake.query.connection import connect
from ttame_core.lake.schemas import HISTORY

EARLIER = pa.schema(
    [
        ("epoch", pa.int32()),
        ("step", pa.int32()),
        *((term, pa.float32()) for term in ("loss", "variation", "area", "confidence")),
        ("metric", pa.string()),
        ("value", pa.float32()),
    ]
)
AT = {"epoch": 0, "step": 5}
LOSSES = {"loss": 2.0, "variation": 0.5, "area": 0.25, "confidence": 1.0}
METRICS = {"AD@15": 40.0, "IC@15": 10.0}


@pytest.mark.parametrize("objective", ["confidence", "cross_entropy"])
def test_earlier_histories_and_those_of_today_are_seen_alike(
    tmp_path: Path, objective: str
) -> None:
    lake = Lake(tmp_path)
    names = {"confidence": objective}
    terms = {names.get(term, term): value for term, value in (LOSSES | METRICS).items()}
    terms["distance"] = 0.125  # a term that earlier versions did not have
    rows = [{**AT, "term": term, "value": value} for term, value in terms.items()]
    earlier = [{**AT, **LOSSES}, *({**AT, "metric": m, "value": v} for m, v in METRICS.items())]
    of = "heads/dataset=d/backbone=b/explainer="
    lake.write_parquet(f"{of}today/history.parquet", rows, HISTORY, {})
    lake.write_parquet(f"{of}earlier/history.parquet", earlier, EARLIER, {})
    lake.write_parquet(f"{of}refused/history.parquet", [], HISTORY, {})
    with connect(lake) as db:
        seen = {
            explainer: db.sql(
                "SELECT epoch, step, loss, variation, area, confidence, metric, value FROM heads "
                f"WHERE explainer = '{explainer}' ORDER BY metric NULLS FIRST"
            ).fetchall()
            for explainer in ("today", "earlier", "refused")
        }
        distances = db.sql("SELECT explainer, max(distance) FROM heads GROUP BY ALL").fetchall()
    assert sorted(distances) == [("earlier", None), ("today", 0.125)]
    losses = tuple(LOSSES.values())
    expected = [
        (0, 5, *losses, None, None),
        *((0, 5, None, None, None, None, metric, value) for metric, value in METRICS.items()),
    ]
    assert seen == {"today": expected, "earlier": expected, "refused": []}
