"""The page on explainers, and that on metrics, have all there are, as the command line lists it."""

from __future__ import annotations

import pytest
from pages import DOCS
from rich.table import Table

from ttame_core import metrics
from ttame_core.explainers import REGISTRY
from ttame_core.lake.query.directions import stems
from ttame_core.report.listings import explainers_table, metrics_table


def rows(table: Table) -> list[str]:
    """Of the table on a page."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    found = (list(cells) for cells in zip(*columns, strict=True))
    return [f"| `{name}` | " + " | ".join(rest) + " |" for name, *rest in found]


@pytest.mark.parametrize(
    ("page", "table"),
    [("explainers", explainers_table(REGISTRY)), ("metrics", metrics_table(metrics.REGISTRY))],
)
def test_all_stand_there_as_they_are(page: str, table: Table) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows(table)


def test_every_metric_is_explained() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    missing = [stem for stem in stems() if stem.rstrip("@_") not in text]
    assert not missing
