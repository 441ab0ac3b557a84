"""The page on extending shows the example package as it is."""

from __future__ import annotations

import re

from pages import DOCS, ROOT

PACKAGE = ROOT / "examples/plugin"


def test_files_are_shown_as_they_are() -> None:
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", text, re.M | re.S))
    files = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.*") if p.is_file()}
    built = {name for name in files if "egg-info" in name or "build/" in name or ".pyc" in name}
    assert shown.keys() == files - built - {"ttame_example/__init__.py"}
    for name, content in shown.items():
        assert content == (PACKAGE / name).read_text(encoding="utf-8"), name
