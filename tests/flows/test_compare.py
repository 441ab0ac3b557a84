"""`ttame compare` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from ttame_core.errors import UserError
from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for explainer, seconds in (("rise", 2.0), ("ttame", 1.0)):
        rows = [
            {"key": f"k{i}", "label": 0, "predicted": 0, "target": 0, "seconds": seconds + i / 99}
            for i in range(20)
        ]
        path = scores_file("cost", "d", "net", explainer, "test-000000")
        Lake(tmp_path).write_parquet(path, rows, schema_of("cost"), "x")
    return tmp_path


def test_a_table_for_people_and_formats_for_others(workspace: Path, tmp_path: Path) -> None:
    arguments = ["compare", "ttame", "rise", "--workspace", str(workspace)]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0
    (line,) = [x for x in table.stdout.splitlines() if "seconds" in x]
    assert line.split()[-1] == "ttame"
    (row,) = json.loads(CliRunner().invoke(app, [*arguments, "--format", "json"]).stdout)
    assert (row["metric"], row["pairs"], row["better"]) == ("seconds", 20, "ttame")
    assert row["difference"] == pytest.approx(-1)
    out = tmp_path / "out.csv"
    CliRunner().invoke(app, [*arguments, "--format", "csv", "--output", str(out)])
    assert out.read_text().startswith("dataset,backbone,metric,a,b,difference")


def test_unknown_names(workspace: Path) -> None:
    with pytest.raises(UserError, match="Did you mean ttame"):
        CliRunner().invoke(
            app,
            ["compare", "tame", "rise", "--workspace", str(workspace)],
            catch_exceptions=False,
        )
