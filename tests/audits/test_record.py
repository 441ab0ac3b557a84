"""A record, compared with the one before it, and believed only as it was written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ttame_core import spec
from ttame_core.audits.record import Outcome, failed_gates, write_record
from ttame_core.errors import UserError
from ttame_core.lake import Lake, families, maps_file, scores_file
from ttame_core.lake.query.connection import leaderboard
from ttame_core.lake.records import read_about
from ttame_core.lake.schemas import INDEX, LOST, REJECTED, maps_schema

IMAGES = 24
WHERE = ("d", "net", "quick", "test-000000")
AUDIT = {
    "name": "zoo",
    "dataset": {"name": "d", "source": {"kind": "shapes"}},
    "backbones": [{"name": "net", "model": "resnet18", "pretrained": True}],
    "explainers": [{"method": "gradcam", "name": "quick"}],
    "gates": [{"seconds": {"worse_by": 0.1}}],
}


ABOUT = [{"key": f"k{i:02d}", "label": 0, "predicted": 0, "target": 0} for i in range(IMAGES)]


@pytest.mark.parametrize("away", [False, True], ids=["folder", "object store"])
def test_values_written_after_the_connection_was_opened_are_compared(
    away: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    lake = Lake(request.getfixturevalue("s3").url if away else tmp_path)
    audit = _mapped(lake)
    for day in (1, 2, 3):
        folder = _recorded(lake, audit, day)
        failed = [(r["previous"], r["value"]) for r in failed_gates(lake, folder)]
        assert failed == ([(day - 1, day)] if day > 1 else [])


def _mapped(lake: Lake) -> spec.AuditSpec:
    """An audit, and the maps that it asks for."""
    samples = [{"key": f"k{i:02d}", "split": "test", "label": 0} for i in range(IMAGES)]
    lake.write_parquet("datasets/d/index.parquet", samples, INDEX, "x")
    heat = {"probability": 0.5, "height": 1, "width": 1, "map": np.zeros(1, dtype=np.float16)}
    lake.write_parquet(maps_file(*WHERE), [row | heat for row in ABOUT], maps_schema(1, 1), "x")
    return spec.AuditSpec.model_validate(AUDIT)


def _recorded(
    lake: Lake,
    audit: spec.AuditSpec,
    day: int,
    seconds: float | None = None,
    failures: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Write the record of a day on which each map took so many seconds; else as many as days."""
    seconds = float(day) if seconds is None else seconds
    costs = [row | {"seconds": seconds, "forward_passes": 1.0} for row in ABOUT]
    path = scores_file("cost", *WHERE)
    if not lake.is_current(path, seconds):
        lake.write_parquet(path, costs, families.schemas()["cost"], seconds)
    outcome = Outcome(failures, datetime(2026, 1, day, tzinfo=UTC))
    return write_record(lake, audit, outcome, lambda recorded: None)


def test_a_clock_that_was_set_back_makes_no_earlier_record(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    audit = _mapped(lake)
    first, second = _recorded(lake, audit, 5), _recorded(lake, audit, 3)
    assert second > first
    previous = read_about(lake, second).previous
    assert previous
    assert f"audits/{previous.record}" == first


# ---- records that were damaged or edited -----------------------------------------------------


def _other_values(path: Path) -> None:
    """Write a Parquet file again with other values, and all else as it was."""
    table = pq.read_table(path)
    column = table.schema.get_field_index("value")
    other = pc.add(table["value"], pa.scalar(1, table["value"].type))
    pq.write_table(table.set_column(column, table.schema.field("value"), other), path)


def _one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def _no_record(path: Path) -> None:
    path.write_text("[]")


def _other_backbones(path: Path) -> None:
    path.write_text(path.read_text().replace('"net"', '"other"'))


def _no_seal(path: Path) -> None:
    """Edit a record, and take away the hash that would tell, as if an earlier version wrote it."""
    about = json.loads(path.read_text())
    del about["seal"]
    path.write_text(json.dumps(about | {"backbones": ["other"]}))


DAMAGES: list[tuple[str, Callable[[Path], None]]] = [
    ("leaderboard.parquet", _other_values),
    ("leaderboard.parquet", _one_bit),
    ("values.parquet", _other_values),
    ("values.parquet", _one_bit),
    ("values.parquet", Path.unlink),
    ("changes.parquet", _one_bit),
    ("spec.yaml", _one_bit),
    ("record.json", _no_record),
    ("record.json", _one_bit),
    ("record.json", _other_backbones),
    ("record.json", _no_seal),
    ("record.json", Path.unlink),
]


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[dict]]:
    """A workspace, the folder of its record, and its leaderboard."""
    lake = Lake(tmp_path_factory.mktemp("recorded"))
    folder = _recorded(lake, _mapped(lake), 1)
    return Path(lake.url), folder, leaderboard(lake).to_pylist()


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_record_that_is_not_as_it_was_written_is_not_believed(
    name: str,
    damage: Callable[[Path], None],
    first_day: tuple[Path, str, list[dict]],
    tmp_path: Path,
) -> None:
    whole, folder, before = first_day
    lake = Lake(shutil.copytree(whole, tmp_path / "workspace"))
    audit = spec.AuditSpec.model_validate(AUDIT)
    place = Path(lake.path(folder))
    damage(place / name)
    assert leaderboard(lake).to_pylist() == before  # worked out anew where it is damaged
    with pytest.raises(UserError, match=rf"{name} (is not as the audit wrote it|is damaged)"):
        _recorded(lake, audit, 2, seconds=1.0)
    shutil.rmtree(place)  # as the sentence says
    again = _recorded(lake, audit, 2, seconds=1.0)
    assert lake.read_table(f"{again}/leaderboard.parquet").to_pylist() == before


def test_a_record_names_the_one_before_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    audit = _mapped(lake)
    first, second = (_recorded(lake, audit, day) for day in (1, 2))
    assert read_about(lake, first).previous is None
    previous = read_about(lake, second).previous
    assert previous is not None
    assert f"audits/{previous.record}" == first
    digest = hashlib.sha256((tmp_path / first / "record.json").read_bytes()).hexdigest()
    assert previous.sha256 == digest


# ---- what is no number, or of another time ---------------------------------------------------


def test_a_record_says_how_many_inputs_were_left_out(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    audit = _mapped(lake)
    kinds = ["image", "file", "image"]
    rows = [{"path": str(n), "kind": kind, "reason": "x"} for n, kind in enumerate(kinds)]
    lake.write_parquet("datasets/d/rejected.parquet", rows, REJECTED, "x")
    folder = _recorded(lake, audit, 1)
    assert lake.read_json(f"{folder}/record.json")["rejected"] == {"file": 1, "image": 2}


def test_a_failed_backbones_earlier_rows_are_in_no_record(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    audit = _mapped(lake)
    assert lake.parquet_rows(f"{_recorded(lake, audit, 1)}/leaderboard.parquet") > 0
    folder = _recorded(lake, audit, 2, failures={"net": "its file is gone"})
    for name in ("leaderboard", "values", "thumbnails"):
        assert lake.parquet_rows(f"{folder}/{name}.parquet") == 0


def test_an_explainer_without_any_map_is_told_of(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    audit = _mapped(lake)
    audit = audit.model_copy(
        update={"explainers": [*audit.explainers, spec.Explainer(method="center")]}
    )
    (row,) = failed_gates(lake, _recorded(lake, audit, 1))
    assert row["words"] == "center on net has no map of any image: its maps are not finite."


def test_single_maps_that_are_not_finite_are_told_of(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    audit = _mapped(lake)
    maps = lake.read_table(maps_file(*WHERE))
    schema = maps.schema.remove_metadata()
    lake.write_parquet(
        maps_file(*WHERE), maps.replace_schema_metadata(), schema, "x", **{LOST: "2"}
    )
    (row,) = failed_gates(lake, _recorded(lake, audit, 1))
    assert row["words"] == (
        "quick on net lacks 2 maps, which are not finite: its numbers are of other images alone."
    )


def test_what_is_no_number_is_told_of(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    audit = _mapped(lake)
    failed = failed_gates(lake, _recorded(lake, audit, 1, seconds=float("nan")))
    assert [row["words"] for row in failed] == ["seconds of quick on net is no finite number."]
