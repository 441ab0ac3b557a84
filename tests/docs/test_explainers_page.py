"""The page on explainers, and that on metrics, have all there are."""

from __future__ import annotations

from pages import DOCS

from ttame_core.explainers import REGISTRY
from ttame_core.lake.directions import stems
from ttame_core.report.tables import explainers_table


def rows() -> list[str]:
    """The table of docs/explainers.md, as the registry has it."""
    table = explainers_table(REGISTRY)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    found = (list(cells) for cells in zip(*columns, strict=True))
    return [f"| `{name}` | " + " | ".join(rest) + " |" for name, *rest in found]


def test_every_explainer_stands_there_as_it_is() -> None:
    text = (DOCS / "explainers.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows()


def test_every_metric_is_explained() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    missing = [stem for stem in stems() if stem.rstrip("@_") not in text]
    assert not missing
