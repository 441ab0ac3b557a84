"""The page with the keys of a spec: it is what the program says of them, and complete."""

from __future__ import annotations

import pytest
from pages import DOCS

from harness import reference


def test_it_is_current() -> None:
    on_disk = (DOCS / "spec.md").read_text(encoding="utf-8")
    assert on_disk == reference.page(), "run: python -m harness.reference > docs/spec.md"


def test_every_key_is_described() -> None:
    rows = [line for line in reference.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 90
    assert not [row for row in rows if row.endswith("|  |")]


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("crop_scale", "number > 0, ≤ 1 | `0.5`"),
        ("precision", "`auto`, `float32`, `bfloat16`, `float16` | `float32`"),
        ("checkpoint_steps", "whole number ≥ 1 | `500`"),
        ("channels_last", "`true`, `false` | `true`"),
        ("std", "list of numbers | "),
        ("class_names", "list or text | "),
    ],
)
def test_types_bounds_and_defaults(key: str, row: str) -> None:
    assert f"| `{key}` | {row} |" in reference.page()
