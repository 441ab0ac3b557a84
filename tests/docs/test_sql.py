"""Every question of docs/sql.md gets an answer, and the answers are true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Block, blocks

import ttame_core as tt
from ttame_core.lake import Lake
from ttame_core.stages.explain import read_maps

QUESTIONS = {block.heading: block for block in blocks("docs/sql.md", "sql")}


def test_there_are_enough() -> None:
    assert len(QUESTIONS) == len(blocks("docs/sql.md", "sql")) >= 20


@pytest.mark.parametrize("block", QUESTIONS.values(), ids=list(QUESTIONS))
def test_each_is_answered_as_the_page_says(block: Block, workspace: Path) -> None:
    answer = tt.query(workspace, block.text)
    assert block.after.startswith("Columns: ")
    assert answer.column_names == re.findall(r"`([^`]+)`", block.after)
    assert answer.num_rows
    assert all(
        any(row[name] is not None for row in answer.to_pylist()) for name in answer.schema.names
    )


def _ask(heading: str, workspace: Path) -> list[dict[str, Any]]:
    (found,) = [text for name, text in QUESTIONS.items() if name.startswith(heading)]
    return tt.query(workspace, found.text).to_pylist()


def test_errors_and_the_size_of_maps(workspace: Path) -> None:
    lake = Lake(workspace)
    sizes: dict[tuple[str, bool], list[float]] = {}
    for path in lake.glob("maps/*/*/explainer=ttame/*.parquet"):
        backbone = path.split("backbone=")[1].split("/")[0]
        for row, found in read_maps(lake, path):
            key = backbone, row["label"] == row["predicted"]
            sizes.setdefault(key, []).append(float(found.mean()))
    rows = _ask("Do errors have larger maps", workspace)
    assert {(row["backbone"], row["correct"]) for row in rows} == sizes.keys()
    assert len(sizes) == 4
    for row in rows:
        values = sizes[row["backbone"], row["correct"]]
        assert row["images"] == len(values)
        assert row["complexity"] == pytest.approx(np.mean(values), abs=1e-3)


def test_where_two_backbones_look_at_different_things(workspace: Path) -> None:
    lake = Lake(workspace)
    maps: dict[str, dict[tuple[str, int], np.ndarray]] = {}
    for path in lake.glob("maps/*/*/explainer=ttame/*.parquet"):
        own = maps.setdefault(path.split("backbone=")[1].split("/")[0], {})
        for row, found in read_maps(lake, path):
            own[row["key"], row["target"]] = found.numpy()
    a, b = (maps[name] for name in sorted(maps))
    alike = {key for key, _ in a.keys() & b.keys()}
    rows = _ask("Where do two backbones look", workspace)
    assert {row["key"] for row in rows} <= alike
    assert len(rows) == min(20, len(alike))
    values = [row["correlation"] for row in rows]
    assert values == sorted(values)
    assert all(-1.001 <= value <= 1.001 for value in values)


def test_what_was_lost_since_the_last_audit(workspace: Path) -> None:
    first, last = (
        {
            (r["backbone"], r["key"]): r["value"]
            for r in Lake(workspace).read_table(path).to_pylist()
            if r["explainer"] == "ttame" and r["metric"] == "AD@15"
        }
        for path in Lake(workspace).glob("audits/*/*/values.parquet")
    )
    lost = sorted((last[key] - first[key] for key in last), reverse=True)
    rows = _ask("Which images lost most", workspace)
    assert [row["lost"] for row in rows] == pytest.approx(lost[:20])
    assert lost[0] > 0


def test_the_border(workspace: Path) -> None:
    lake = Lake(workspace)
    (path,) = lake.glob("maps/*/backbone=vit/explainer=ttame/*.parquet")
    by_class: dict[int, list[np.ndarray]] = {}
    for row, found in read_maps(lake, path):
        by_class.setdefault(row["predicted"], []).append(found.numpy())
    for row in _ask("Does a classifier look at the border", workspace):
        if row["backbone"] != "vit":
            continue
        total = np.sum(by_class[row["predicted"]], axis=0)
        inner = total[1:-1, 1:-1].sum()
        assert row["share"] == pytest.approx(1 - inner / total.sum(), abs=1e-3)
        assert row["even"] == pytest.approx(1 - total[1:-1, 1:-1].size / total.size)


def test_polars_and_pandas(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.parent)
    first, second, third = (block.text for block in blocks("docs/sql.md", "python"))
    names: dict[str, Any] = {}
    exec(first, names)
    assert set(names["best"]["backbone"]) == {"resnet10t", "vit"}
    expected = {r["explainer"]: [] for r in names["answer"].to_pylist()}
    for row in names["answer"].to_pylist():
        expected[row["explainer"]].append(row["value"])
    for explainer, value in names["by_explainer"].items():
        assert value == pytest.approx(np.mean(expected[explainer]))
    exec(second, names)
    assert names["largest"].shape == (8, 3)
    sql = "SELECT avg(p) AS p, avg(p_masked) AS q FROM confidence WHERE keep = 15"
    (row,) = tt.query(workspace, sql).to_pylist()
    assert names["kept"].loc[15].tolist() == pytest.approx([row["p"], row["q"]], rel=1e-4)
    exec(third, names)
    assert names["maps"].shape[0] == 48
    assert names["maps"].min() == 0
    assert names["maps"].max() == 1
