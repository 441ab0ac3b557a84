"""The documentation as a site: built strictly, every link leads somewhere, nothing is fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from pages import DOCS, ROOT

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


class _Page(HTMLParser):
    """links: what `href` and `src` say. fetched: those that a browser fetches by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        found = {given[name] for name in ("href", "src") if name in given}
        self.links |= found
        if tag in ("script", "img", "iframe") or (
            tag == "link" and given.get("rel") != "canonical"
        ):
            self.fetched |= found


def _build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


def test_it_is_whole(tmp_path: Path) -> None:
    built = _build(ROOT, tmp_path / "site")
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert {name.replace(".md", ".html") for name in PAGES} <= {
        str(path.relative_to(site)) for path in pages
    }
    broken = []
    checked = 0
    for path, page in pages.items():
        assert not [link for link in page.fetched if "//" in link], path
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            there = target.exists()
            if there and parts.fragment and target in pages:
                there = unquote(parts.fragment) in pages[target].ids
            checked += 1
            if not there:
                broken.append((path.name, link))
    assert not broken
    assert checked > 500
    assert (site / "repository/examples/field3.yaml.txt").read_text() == (
        ROOT / "examples/field3.yaml"
    ).read_text()
    functions = pages[site / "api.html"].ids
    assert {"ttame_core.api.explain", "ttame_core.explainers.base.Explainer"} <= functions
    _look_into(site)


def _look_into(site: Path) -> None:
    """Search in a page read from the disk, and see that tables and code fit a phone."""
    if CHROMIUM is None:
        return
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or said.append(r.url))
        page.goto((site / "decisions/index.html").as_uri())
        first = page.locator(".md-search-result__link").first
        for _ in range(10):  # what is typed before the index is there may be lost
            page.fill("input.md-search__input", "minimum_discrimination")
            with suppress(sync_api.TimeoutError):
                first.wait_for(state="attached", timeout=10_000)
                break
            page.reload()
        assert "spec.html" in " ".join(
            link.get_attribute("href") for link in page.locator(".md-search-result__link").all()
        )
        page.set_viewport_size({"width": 390, "height": 900})
        page.goto((site / "spec.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        heights = "codes => codes.map(code => code.offsetHeight)"  # of one line each
        keys = page.locator("td:first-child > code")
        assert len(set(keys.evaluate_all(heights))) == 1
        assert keys.count() > 90
        browser.close()
        assert said == []


def test_a_broken_link_or_a_page_outside_the_contents_fails(tmp_path: Path) -> None:
    def small(name: str, index: str) -> Path:
        root = tmp_path / name
        (root / "docs").mkdir(parents=True)
        shutil.copy(DOCS / "hooks.py", root / "docs")
        config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
        kept = ("site_name", "strict", "use_directory_urls", "exclude_docs", "hooks", "validation")
        whole = {key: config[key] for key in kept} | {"nav": ["index.md"], "plugins": []}
        (root / "mkdocs.yml").write_text(yaml.safe_dump(whole))
        (root / "docs/index.md").write_text(index)
        return root

    fine = small("fine", "# Here\n\n[here](#here) [code](../mkdocs.yml)\n")
    assert _build(fine, tmp_path / "site").returncode == 0
    for name, text in (
        ("page", "[x](none.md)"),
        ("anchor", "[x](#none)"),
        ("file", "[x](../none.py)"),
    ):
        assert _build(small(name, f"# Here\n\n{text}\n"), tmp_path / name / "site").returncode != 0
    (fine / "docs/more.md").write_text("# More\n")
    built = _build(fine, tmp_path / "site")
    assert built.returncode != 0
    assert "more.md" in built.stderr


@pytest.mark.parametrize("page", PAGES)
def test_every_page_stands_in_the_contents_once(page: str) -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]

    def leaves(found: object) -> list[str]:
        if isinstance(found, str):
            return [found]
        inner = found.values() if isinstance(found, dict) else found
        return [leaf for part in inner for leaf in leaves(part)]  # type: ignore[union-attr]

    assert leaves(nav).count(page) == 1
