"""Links of the pages to files of the repository, such as ../tests/…: their text goes along."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

LINK = re.compile(r"\]\(\.\./([^)#\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add each file that a page links to, as text that a browser shows."""
    root = Path(config["config_file_path"]).parent
    linked = {
        path
        for page in list(files.documentation_pages())
        for path in LINK.findall(Path(page.abs_src_path).read_text(encoding="utf-8"))
    }
    for path in sorted(linked):
        if not (root / path).is_file():
            raise PluginError(f"a page links to ../{path}, and there is no such file")
        content = (root / path).read_text(encoding="utf-8")
        files.append(File.generated(config, f"repository/{path}.txt", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return LINK.sub(r"](repository/\1.txt)", markdown)
