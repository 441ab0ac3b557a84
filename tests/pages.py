"""Fenced blocks and commands of README.md and docs/*.md, for the tests that run them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
TTAME = r"(?:\.venv/bin/)?ttame (.*)"


class Line(NamedTuple):
    page: str
    text: str


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


def prose(page: str) -> str:
    """Without fenced blocks."""
    return FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


def commands(pattern: str) -> list[Line]:
    """What the pattern's group finds in lines of indented blocks, and of fenced ones of a shell."""
    return [
        Line(page, found[1])
        for page in PAGES
        for line in _block_lines(page)
        if (found := re.match(pattern, line))
    ]


def _block_lines(page: str) -> Iterator[str]:
    for language, body in FENCE.findall((ROOT / page).read_text(encoding="utf-8")):
        if language in ("", "sh", "bash"):
            yield from map(str.strip, body.splitlines())
    yield from (line.strip() for line in prose(page).splitlines() if line.startswith("    "))
