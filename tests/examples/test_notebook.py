"""The notebook runs from its first cell to its last, and is stored without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
from forked import PATIENCE
from nbclient import NotebookClient

PLACE = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def test_the_notebook_runs() -> None:
    notebook = nbformat.read(PLACE, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    check = "assert means['ttame']['AD@15'] < means['random']['AD@15'] - 20, means"
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    NotebookClient(
        notebook, timeout=PATIENCE, resources={"metadata": {"path": str(PLACE.parent)}}
    ).execute()
    printed = "".join(o.get("text", "") for cell in code for o in cell.outputs)
    assert printed.count("energy_in_box") == 3
    print(printed)  # seen with pytest -s
