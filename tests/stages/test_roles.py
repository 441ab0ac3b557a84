"""Roles follow from methods and trainings, whatever explainers are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ttame_core import spec
from ttame_core.audits.gates import check_names
from ttame_core.audits.history import audits
from ttame_core.audits.specification import complete
from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.connection import leaderboard, run_query
from ttame_core.lake.schemas import CONTROL, LEADERBOARD, RIVAL, YARDSTICK
from ttame_core.stages.roles import Role, rivals, roles, write_roles

PERMUTED = {"training": {"labels": "permuted"}}


def _audit(*explainers: Any, **sections: Any) -> spec.AuditSpec:
    return complete(
        spec.AuditSpec.model_validate(
            {
                "name": "roles",
                "dataset": {"name": "d", "source": {"kind": "shapes"}},
                "backbones": [{"name": "net", "model": "resnet10t", "pretrained": True}],
                "explainers": explainers,
                **sections,
            }
        )
    )


def _write_scores(lake: Lake, explainer: str, thumbnail: int, p_masked: float) -> None:
    """One image's shape and confidence; thumbnail: the place of its only value."""
    identity = {"key": "k", "label": 0, "predicted": 0, "target": 0}
    values = np.eye(196, dtype=np.float32)[thumbnail].tolist()
    shape = identity | {"complexity": 0.5, "sparseness": 0.5, "thumbnail": values}
    masked = identity | {"keep": 15.0, "fill": "zero", "p": 0.8, "p_masked": p_masked}
    for family, row in (("shape", shape), ("confidence", masked)):
        path = scores_file(family, "d", "net", explainer, "test-000000")
        lake.write_parquet(path, [row], schema_of(family), "x")


def test_a_role_is_the_methods_or_that_of_permuted_labels() -> None:
    audit = _audit(
        "ttame",
        {"ttame": {"name": "mixed", **PERMUTED}},
        {"gradcam": {"name": "random2"}},
        {"gradcam": {"name": "oracle"}},
        {"random": {"name": "noise"}},
        "center",
    )
    assert roles(audit) == {
        "ttame": Role("ttame", RIVAL),
        "mixed": Role("ttame", CONTROL, "ttame"),
        "random2": Role("gradcam", RIVAL),
        "oracle": Role("gradcam", RIVAL),
        "noise": Role("random", YARDSTICK),
        "center": Role("center", YARDSTICK),
    }
    assert rivals(audit) == ["ttame", "random2", "oracle"]


def test_a_control_is_held_against_the_explainer_of_its_name_or_its_settings() -> None:
    short = {"training": {"epochs": 3}}
    audit = _audit(
        "ttame",
        {"ttame": {"name": "short", **short}},
        {"ttame": {"name": "ttame-permuted", **PERMUTED}},
        {"ttame": {"name": "short-permuted", **PERMUTED}},
        {"ttame": {"name": "shuffled", "training": {"epochs": 3, "labels": "permuted"}}},
        {"ttame": {"name": "odd", "training": {"epochs": 5, "labels": "permuted"}}},
        {"tame": {"name": "alone", **PERMUTED}},
    )
    assert {name: role.control_of for name, role in roles(audit).items()} == {
        "ttame": None,
        "short": None,
        "ttame-permuted": "ttame",
        "short-permuted": "short",
        "shuffled": "short",
        "odd": "ttame",
        "alone": None,
    }
    assert rivals(_audit("ttame", "gradcam", training={"labels": "permuted"})) == ["gradcam"]


def test_sql_ranks_and_compares_by_roles_not_by_names(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    audit = _audit(
        "ttame",
        {"ttame": {"name": "mixed", **PERMUTED}},
        {"gradcam": {"name": "random2"}},
        {"random": {"name": "noise"}},
        {"oracle": {"name": "objects"}},
    )
    values = {"ttame": 0.7, "mixed": 0.6, "random2": 0.5, "noise": 0.08, "objects": 0.72}
    for place, (name, p_masked) in enumerate(values.items()):
        _write_scores(lake, name, 0 if name == "mixed" else place, p_masked)
    before = leaderboard(lake)
    write_roles(lake, audit, ["net"])

    ranked = {row["explainer"] for row in run_query(lake, "FROM ranks").to_pylist()}
    assert ranked == {"ttame", "random2"}
    rows = leaderboard(lake).to_pylist()
    found = {(row["explainer"], row["metric"]): row for row in rows}
    assert found["ttame", "sanity_labels"]["value"] == 1
    assert round(found["-", "discrimination"]["value"], 4) == 80.0  # 90 less 10 percent
    assert found["-", "discrimination"]["role"] is None
    assert found["mixed", "AD@15"]["role"] == CONTROL
    assert found["noise", "AD@15"]["method"] == "random"
    assert "discrimination" not in before["metric"].to_pylist()  # no name told it


def test_names_tell_roles_where_no_file_does(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    audit = _audit("ttame", {"ttame": PERMUTED}, "gradcam", "random", "oracle")
    for place, name in enumerate(roles(audit)):
        _write_scores(lake, name, place % 2, 0.1 * place)
    before = leaderboard(lake), run_query(lake, "FROM ranks ORDER BY ALL")
    told = run_query(lake, "FROM explainers ORDER BY explainer").to_pylist()
    write_roles(lake, audit, ["net"])
    assert run_query(lake, "FROM explainers ORDER BY explainer").to_pylist() == told
    assert leaderboard(lake).equals(before[0])
    assert run_query(lake, "FROM ranks ORDER BY ALL").equals(before[1])
    assert {row["role"] for row in told} == {RIVAL, YARDSTICK, CONTROL}


def test_what_is_written_is_not_written_again(tmp_path: Path) -> None:
    lake, audit = Lake(tmp_path), _audit("ttame", "random")
    write_roles(lake, audit, ["net"])
    (path, _) = lake.glob("explainers/*/*/*/*.parquet")
    written = lake.fs.info(lake.path(path))["mtime"]
    write_roles(lake, audit, ["net"])
    assert lake.fs.info(lake.path(path))["mtime"] == written


def test_a_gate_is_on_rivals_whatever_they_are_called() -> None:
    mixed = {"ttame": {"name": "mixed", **PERMUTED}}
    gate = spec.Gate.model_validate({"changed_maps": {"explainer": "mixed", "at_most": 5}})
    with pytest.raises(ValueError, match="on no explainer of the audit"):
        check_names(gate, _audit("ttame", mixed))
    check_names(gate, _audit("ttame", {"gradcam": {"name": "mixed"}}))


def test_records_tell_roles_and_those_from_before_by_names(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    row = {"dataset": "d", "backbone": "net", "metric": "AD@15", "ci_low": 1.0, "ci_high": 3.0}
    before = pa.schema([field for field in LEADERBOARD if field.name not in ("method", "role")])
    for time, names, schema in (
        ("20260101T000000Z", {"ttame-permuted": None, "random": None, "mixed": None}, before),
        ("20260102T000000Z", {"mixed": CONTROL, "random": RIVAL}, LEADERBOARD),
    ):
        rows = [
            row | {"explainer": name, "value": 2.0, "images": 9, "method": "any", "role": role}
            for name, role in names.items()
        ]
        told = [{name: row[name] for name in schema.names} for row in rows]
        lake.write_parquet(f"audits/a/{time}/leaderboard.parquet", told, schema, "x")
        about = {"failures": {}, "explainers": [*names]}
        lake.write_json(f"audits/a/{time}/record.json", about)
    roles_then = "SELECT explainer, role FROM audits WHERE timestamp < '20260102' ORDER BY ALL"
    assert run_query(lake, roles_then).to_pylist() == [
        {"explainer": "mixed", "role": RIVAL},
        {"explainer": "random", "role": YARDSTICK},
        {"explainer": "ttame-permuted", "role": CONTROL},
    ]
    assert audits(lake)["headline"].to_pylist() == ["mixed: AD@15 2.0", "random: AD@15 2.0"]
