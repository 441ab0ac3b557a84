"""The house stands: imports point down, in no circle, and no test leans on a benchmark."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
ROOMS_OF_THE_ROOT = 8  # modules that stand in ttame_core itself, its __init__ counted


def test_imports_keep_to_the_contracts() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    linter = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert linter.returncode == 0, linter.stdout + linter.stderr


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("flows", "tasks", "ttame_core")
    order = graphlib.TopologicalSorter(
        {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    )
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_few_modules_stand_in_the_root_of_the_core() -> None:
    assert len(list((ROOT / "ttame_core").glob("*.py"))) <= ROOMS_OF_THE_ROOT


def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without `__init__.py` is not installed, and no contract sees it."""
    for package in ("flows", "tasks", "ttame_core", "harness", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.with_name("__init__.py").exists(), path.parent


def test_no_test_imports_a_benchmark_and_no_benchmark_a_test() -> None:
    tests = {path.stem for path in (ROOT / "tests").rglob("*.py")} - {"__init__", "conftest"}
    for folder, forbidden in (("tests", {"benchmarks"}), ("benchmarks", {"tests", *tests})):
        for path in (ROOT / folder).rglob("*.py"):
            assert not _packages(path) & forbidden, path


def test_no_function_takes_more_than_six_parameters() -> None:
    """Options that a caller must name are not counted, nor what torch and Numba call for."""
    as_torch_has_it = {"attention", "_multi_head_attention"}  # of explainers/self_attention.py
    for folder in ("tasks", "ttame_core"):
        for path in (ROOT / folder).rglob("*.py"):
            functions = [
                node
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef) and node.name not in as_torch_has_it
            ]
            for function in functions if path.name != "compiled.py" else ():
                arguments = function.args
                names = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
                count = len(names) - (names[:1] in (["self"], ["cls"]))
                assert count <= 6, f"{path}: {function.name} takes {count} parameters"


def _packages(path: Path) -> set[str]:
    """Return the top-level names of what a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}
