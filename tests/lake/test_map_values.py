"""Maps in float16 and quantised: the same to whoever reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny import PLAIN, tiny_backbone

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.data.loader import load_batches
from ttame_core.explainers import REGISTRY, forward_pass
from ttame_core.lake import Lake, maps_file
from ttame_core.lake.map_values import STORED, restore, store
from ttame_core.lake.query.connection import connect, run_query
from ttame_core.lake.schemas import maps_schema
from ttame_core.perturbation.masking import min_max
from ttame_core.report.pictures import find_samples, heat_of
from ttame_core.stages.explain import WantedMaps, explain_shard, read_maps
from ttame_core.stages.shard import StoredShard

SHARD = "test-000000"
ERROR = {"float16": 2.0**-12, "uint8": 1 / 510}  # the largest error between 0 and 1
COMPUTE = spec.Compute(device="cpu", batch_size=5, workers=2)


@pytest.fixture(scope="module")
def stored(drawn: tuple[Lake, str]) -> Backbone:
    """The classifier whose maps the lake has twice, as explainers named by their dtype."""
    backbone = tiny_backbone()
    backbone.name = "stored"
    order = WantedMaps("", REGISTRY["gradcam"](backbone), "x")
    wanted = [replace(order, name=dtype, dtype=dtype) for dtype in ERROR]
    explain_shard(StoredShard(*drawn, SHARD), backbone, wanted, "predicted", COMPUTE)
    return backbone


def _expected(drawn: tuple[Lake, str], backbone: Backbone) -> dict[str, np.ndarray]:
    batch = next(load_batches(*drawn, [SHARD], PLAIN, 12, 2))
    forward = forward_pass(backbone, batch)
    targets = forward.logits.argmax(dim=1, keepdim=True)
    maps = min_max(REGISTRY["gradcam"](backbone).attribute(forward, targets))[:, 0]
    return dict(zip(batch.keys, maps.numpy(), strict=True))


def _restored(values: np.ndarray, kind: pa.DataType, column: str) -> np.ndarray:
    return restore(pa.array([store(values, kind).tolist()], pa.list_(kind)), column)


def test_values_are_rounded_to_the_nearest() -> None:
    values = np.linspace(0, 1, 20_001, dtype=np.float32)
    for dtype, (column, kind) in STORED.items():
        found = _restored(values, kind, column)
        assert found.dtype == np.float32
        assert np.abs(found - values).max() <= ERROR[dtype] + 1e-7
        assert (found[0], found[-1]) == (0, 1)
    assert store(np.float32([0.49, 0.51, 254.49, 254.51]) / 255, pa.uint8()).tolist() == [
        0,
        1,
        254,
        255,
    ]


@pytest.mark.parametrize("dtype", ERROR)
def test_all_readers_get_the_same_floats(
    drawn: tuple[Lake, str], stored: Backbone, dtype: str, tmp_path: Path
) -> None:
    lake, dataset = drawn
    expected = _expected(drawn, stored)
    path = maps_file(dataset, "stored", dtype, SHARD)
    found = {row["key"]: heat.numpy() for row, heat in read_maps(lake, path)}
    assert found.keys() == expected.keys()
    for key, heat in found.items():
        assert np.abs(heat - expected[key]).max() <= ERROR[dtype] + 1e-4  # other batches

    # SQL, from a view of both
    query = f"SELECT * FROM maps WHERE backbone = 'stored' AND explainer = '{dtype}'"
    answer = run_query(lake, query)
    assert answer.schema.field("map").type == pa.list_(pa.float32())
    assert "map_uint8" not in answer.schema.names
    rows = answer.to_pylist()
    assert [row["key"] for row in rows] == list(found)
    for row in rows:
        assert (heat_of(row) == found[row["key"]]).all()

    # pictures
    key = rows[0]["key"]
    with connect(lake) as db:
        (sample,) = find_samples(lake, db, [key], dataset, ["stored"], [dtype])
    assert (heat_of(sample.maps["stored", dtype]) == found[key]).all()

    # someone else's import
    imported = REGISTRY["imported"](stored, {"path": lake.path(path)})
    batch = next(load_batches(*drawn, [SHARD], PLAIN, 3, 2))
    forward = forward_pass(stored, batch)
    maps = imported.attribute(forward, forward.logits.argmax(dim=1, keepdim=True))
    for key, heat in zip(batch.keys, maps[:, 0], strict=True):
        assert (heat.numpy() == found[key]).all()


def test_noise_takes_a_byte_a_value_quantised_and_two_otherwise(tmp_path: Path) -> None:
    lake, noise = Lake(tmp_path), np.random.default_rng(0).random((100, 28 * 28), np.float32)
    for dtype, size in (("float16", 2), ("uint8", 1)):
        column, kind = STORED[dtype]
        rows = [{"key": "k", column: values} for values in store(noise, kind)]
        lake.write_parquet(dtype, rows, maps_schema(28, 28, dtype), "x")
        taken = (tmp_path / dtype).stat().st_size / noise.size
        assert 0.8 * size < taken < 1.05 * size
