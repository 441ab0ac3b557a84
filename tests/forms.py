"""The tables of docs/forms.md, which tests walk: a function makes the example of each row."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pages import DOCS

OUTCOMES = ("taken", "left out", "refused")


@dataclass(frozen=True)
class Row:
    """form: the first cell. outcome: one of OUTCOMES. words: what the sentence must hold."""

    form: str
    outcome: str
    words: str

    def __str__(self) -> str:
        return self.form

    def check(self, outcome: str, said: str = "") -> None:
        """Compare what became of the example, and what was said of it, with the row."""
        assert (outcome, self.words in said) == (self.outcome, True), (outcome, said)


class Table:
    """A table of the page, below a heading; `example` registers what makes a row's example.

    A test is parametrised by `rows`, calls `make(row, …)` and gives the outcome to `row.check`.
    """

    def __init__(self, heading: str) -> None:
        text = (DOCS / "forms.md").read_text(encoding="utf-8")
        (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
        self.rows = [_row(line) for line in re.findall(r"^\| (.*) \|$", section, re.M)[2:]]
        self.examples: dict[str, Callable] = {}

    def example(self, form: str) -> Callable[[Callable], Callable]:
        def register(make: Callable) -> Callable:
            assert form not in self.examples, f"two examples of {form}"
            self.examples[form] = make
            return make

        return register

    def make(self, row: Row, *arguments: object) -> object:
        return self.examples[row.form](*arguments)

    def check_complete(self) -> None:
        assert sorted(row.form for row in self.rows) == sorted(self.examples)


def _row(line: str) -> Row:
    form, *_, result = line.split(" | ")
    outcome = next(word for word in OUTCOMES if result.startswith(word))
    words = re.search(r": `(.*)`", result)
    assert (outcome == "taken") == (words is None), f"{form}: the words of the sentence"
    return Row(form, outcome, words[1] if words else "")
