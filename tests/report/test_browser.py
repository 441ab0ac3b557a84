"""The page in a real browser: no errors, no requests, and everything that can be clicked."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from known import HOSTILE

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at pages")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            args=FLAGS.split(),
            accept_downloads=True,
            viewport={"width": 1280, "height": 900},
        )
        yield context
        context.close()


@pytest.fixture
def page(browser: object, report: Path) -> Iterator[object]:
    with _opened(browser, report) as page:
        yield page


@pytest.fixture
def images(browser: object, report: Path) -> Iterator[object]:
    with _opened(browser, report.with_name("images.html")) as page:
        yield page


@contextmanager
def _opened(browser: object, path: Path) -> Iterator[object]:
    """A page, which must do nothing but load itself."""
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or said.append(r.url)
    )
    page.goto(path.as_uri())
    yield page
    page.close()
    assert said == []


def _column(page: object, number: int) -> list[str]:
    cells = page.locator(f"table.board >> nth=0 >> tbody tr > :nth-child({number})")
    return [cell.get_attribute("data-v") or cell.inner_text() for cell in cells.all()]


def test_tables_sort_and_say_so(page: object) -> None:
    head = page.locator("table.board >> nth=0 >> thead th").nth(2)
    assert "AD@15" in head.inner_text()
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = [float(v) for v in _column(page, 3)]
    assert values == sorted(values)
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(v) for v in _column(page, 3)] == sorted(values, reverse=True)


def test_tables_filter(page: object) -> None:
    rows = page.locator("table.board >> nth=0 >> tbody tr:visible")
    assert rows.count() == 8
    page.fill("#filter", "other grad")
    assert rows.count() == 1
    assert "1 of 8" in page.locator("#matches").inner_text()
    page.fill("#filter", "")
    page.uncheck("#ends")
    assert rows.count() == 4


def test_csv_has_the_intervals(page: object, tmp_path: Path) -> None:
    with page.expect_download() as download:
        page.locator("#leaderboard button.csv").first.click()
    path = tmp_path / "board.csv"
    download.value.save_as(path)
    head, first, *_ = path.read_text().splitlines()
    assert head.startswith("backbone,explainer,AD@15,AD@15 low,AD@15 high,IC@15")
    assert first.startswith("net,ttame,23.455,")


def test_a_picture_opens_and_closes_with_the_keyboard(page: object) -> None:
    picture = page.locator("#shortcuts button.open").nth(1)
    picture.focus()
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    assert "ttame on net" in viewer.locator("p").inner_text()
    page.keyboard.press("ArrowRight")
    assert "ttame on net: what is left at 15 %" in viewer.locator("p").inner_text()
    page.keyboard.press("ArrowRight")
    assert "gradcam on net" in viewer.locator("p").inner_text()
    assert viewer.locator("img").evaluate("image => image.naturalWidth") == 64
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert picture.evaluate("button => button === document.activeElement")


def test_hostile_names_are_text(page: object) -> None:
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("#classes th", has_text="</script><img src=x").count() >= 5


def test_sql_is_one_click_away_and_escape_closes_it(page: object) -> None:
    summary = page.locator("#leaderboard .sql summary").first
    summary.click()
    text = page.locator("#leaderboard .sql pre").first
    assert "FROM leaderboard" in text.inner_text()
    page.keyboard.press("Escape")
    assert not text.is_visible()


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 390, "light")],
)
def test_it_fits_every_screen(
    page: object, tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    shot = tmp_path / f"{name}.png"
    page.screenshot(path=shot)
    assert shot.stat().st_size > 10_000
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    captions = page.evaluate("[...document.querySelectorAll('caption')].map((c) => c.offsetWidth)")
    assert captions
    assert max(captions) <= width - 32  # a table may be wider, and moves sideways
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (red + green + blue < 200) == (scheme == "dark")
    # Text and its ground are far enough apart to read (WCAG 1.4.3).
    ratio = page.evaluate(
        """() => {
            const light = (selector, what) => {
                const found = getComputedStyle(document.querySelector(selector))[what];
                const parts = found.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
                    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
            };
            const pair = [light(".note", "color"), light("body", "backgroundColor")].sort();
            return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        }"""
    )
    assert ratio >= 4.5


def test_it_prints(page: object) -> None:
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000


def _count(images: object) -> str:
    return images.locator("#count").inner_text()


def _choose(images: object, **values: str) -> None:
    for name, value in values.items():
        images.select_option(f"select[name={name}]", value)


def test_images_are_chosen_by_classifier_class_rightness_and_place(images: object) -> None:
    assert _count(images) == "24 of 24 predictions"
    assert images.locator("select[name=suspected]").is_hidden()  # no class is
    _choose(images, backbone="net", right="false")
    assert _count(images) == "1 of 24 predictions"
    assert "taken for" in images.locator("#images article h2").inner_text()
    _choose(images, right="", inside="false")  # all maps of net's first two images are beside
    assert _count(images) == "2 of 24 predictions"
    images.click("button[type=reset]")
    images.wait_for_function("document.getElementById('count').textContent.startsWith('24')")
    name = images.locator("select[name=class] option").nth(1).get_attribute("value")
    _choose(images, **{"class": name})
    own = images.locator("#images article h2").all_inner_texts()
    assert own
    assert all(text.startswith(name) for text in own)


def test_images_with_little_trust_come_first(images: object) -> None:
    images.fill("input[name=trust]", "75")
    # What ttame keeps of the twelve images: 81 · (1 − 0.01 i) %, on both classifiers.
    assert _count(images) == "8 of 24 predictions"
    said = images.locator("#images figure:nth-child(2) figcaption").all_inner_texts()
    assert [text.split(",")[0] for text in said[:3]] == [
        *["ttame: trust 72"] * 2,
        "ttame: trust 73",
    ]


def test_two_explainers_stand_side_by_side(images: object) -> None:
    card = images.locator("#images article").first
    assert card.locator("canvas").count() == 2
    images.select_option("select[name=left]", label="gradcam")
    images.select_option("select[name=other]", label="none")
    assert card.locator("canvas").count() == 1
    assert card.locator("figcaption").nth(1).inner_text().startswith("gradcam: trust")
    pixel = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 1, 1).data]"
    red, green, blue, opacity = card.locator("canvas").evaluate(pixel)
    assert (red, green, blue) == pytest.approx((253, 231, 37), abs=3)  # viridis at its end
    assert opacity == pytest.approx(0.75 * 255, abs=1)


def test_the_selection_goes_along_as_csv(images: object, tmp_path: Path) -> None:
    _choose(images, backbone="net", inside="false")
    with images.expect_download() as download:
        images.click("#csv")
    download.value.save_as(tmp_path / "images.csv")
    rows = list(csv.DictReader((tmp_path / "images.csv").read_text().splitlines()))
    shown = images.locator("#images code").all_inner_texts()
    assert [row["key"] for row in rows] == shown
    assert {row["backbone"] for row in rows} == {"net"}
    assert rows[0]["class"].endswith(HOSTILE)
    assert float(rows[0]["trust of ttame"]) == pytest.approx(80.19)


def test_images_of_hostile_classes_are_text(images: object) -> None:
    assert images.locator("img[src=x]").count() == 0
    assert images.locator("#images h2", has_text=HOSTILE).count() == 24


@pytest.mark.parametrize("width", [390, 1280])
def test_images_fit_every_screen(images: object, width: int) -> None:
    images.set_viewport_size({"width": width, "height": 900})
    assert images.evaluate("document.documentElement.scrollWidth") <= width
