"""Fenced blocks of the documentation's pages, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class Block(NamedTuple):
    """heading: the last one above. after: the paragraph that follows."""

    heading: str
    text: str
    after: str


def blocks(page: str, language: str) -> list[Block]:
    """Blocks of one language, in order. page: relative to the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
        headings = re.findall(r"^#+ (.*)$", text[: match.start()], re.M)
        after = text[match.end() :].strip().partition("\n\n")[0]
        found.append(Block(headings[-1], match[1], after))
    return found
