"""Links of the pages to files of the repository, such as ../tests/…: their text goes along."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add each file outside the pages that a page links to, as text that a browser shows."""
    root = Path(config["config_file_path"]).parent
    linked = {
        path
        for page in list(files.documentation_pages())
        for link in LINK.findall(Path(page.abs_src_path).read_text(encoding="utf-8"))
        if (path := _outside(page.src_uri, link))
    }
    for path in sorted(linked):
        if not (root / path).is_file():
            raise PluginError(f"a page links to ../{path}, and there is no such file")
        content = (root / path).read_text(encoding="utf-8")
        files.append(File.generated(config, f"repository/{path}.txt", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead the links of a page to these texts."""
    up = "../" * page.file.src_uri.count("/")

    def led(match: re.Match[str]) -> str:
        path = _outside(page.file.src_uri, match[1])
        return f"]({up}repository/{path}.txt)" if path else match[0]

    return LINK.sub(led, markdown)


def _outside(page: str, link: str) -> str | None:
    """Return the path in the repository of a link that leaves the pages."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return target.removeprefix("../") if target.startswith("../") else None
