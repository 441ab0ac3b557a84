"""What commands import: those that answer at once do without what takes seconds to import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttame_core.lake import Lake

SLOW = {"torch", "timm", "torchvision", "prefect", "scipy", "matplotlib", "numba", "pandas"}
ROOTS = """
import atexit, sys
atexit.register(lambda: print("imported", *{name.partition(".")[0] for name in sys.modules}))
from flows.cli import main
main()
"""


def _imported(*arguments: str, folder: Path) -> tuple[int, set[str]]:
    """The exit code of a command, and the packages that it has imported."""
    free = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    ended = subprocess.run(
        [sys.executable, "-c", ROOTS, *arguments],
        env=free | {"PREFECT_HOME": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("imported "))
    return ended.returncode, set(line.split()[1:])


@pytest.mark.parametrize(
    "line",
    [
        *("--help", "audit", "audti x.yaml", "audit nowhere.yaml", "audit nowhere.yaml --dry-run"),
        *("train nowhere.yaml", "export-mlflow nowhere.yaml", "status nowhere.yaml"),
        *("explain-image photo.jpg", "audit wrong.yaml", "audit unset.yaml"),
    ],
)
def test_a_mistake_is_told_before_anything_is_imported(line: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("name: a\nbacbones: []\n")
    (tmp_path / "unset.yaml").write_text("name: a\ndataset: {name: '${DATA}'}\n")
    code, imported = _imported(*line.split(), folder=tmp_path)
    assert code == (0 if line == "--help" else 2)
    assert imported & (SLOW | {"duckdb"}) == set()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        *(("query FROM{}maps", 0), ("audits", 0), ("status", 0), ("compare a b", 2)),
        *(("explainers", 0), ("metrics", 0)),
    ],
)
def test_answers_and_listings_need_neither_pytorch_nor_prefect(
    line: str, expected: int, tmp_path: Path
) -> None:
    arguments = (word.replace("{}", " ") for word in line.split())
    code, imported = _imported(*arguments, folder=tmp_path)
    assert code == expected
    assert imported & SLOW == set()


def test_reading_the_files_of_a_lake_needs_no_more(drawn: tuple[Lake, str], tmp_path: Path) -> None:
    code, imported = _imported("status", "--workspace", drawn[0].url, folder=tmp_path)
    assert code == 0
    assert imported & SLOW == set()


def test_a_comparison_needs_no_more(audited: Path) -> None:
    code, imported = _imported("compare", "center", "gradcam", folder=audited)
    assert code == 0
    assert imported & SLOW == set()


def test_an_audit_with_nothing_left_to_do_needs_no_prefect(audited: Path) -> None:
    code, imported = _imported("audit", str(audited / "audit.yaml"), folder=audited)
    assert code == 0
    assert imported & (SLOW - {"torch", "pandas"}) == set()
    assert len(list((audited / "workspace/audits/small").iterdir())) == 1


def test_an_audit_begins_before_timm_and_the_code_of_a_server_are_imported(tmp_path: Path) -> None:
    flow = "import sys, flows.audit_zoo; print(*sys.modules)"
    free = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    path = {"PYTHONPATH": str(Path(__file__).parents[2]), "PREFECT_HOME": str(tmp_path)}
    said = subprocess.check_output([sys.executable, "-c", flow], env=free | path, text=True)
    late = {"timm", "torchvision", "matplotlib", "numba", "scipy", "prefect.server.api.server"}
    assert set(said.split()) & late == set()
