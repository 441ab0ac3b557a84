"""The page: what it says, and that nothing in it is what data made it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from known import HOSTILE

from ttame_core import spec
from ttame_core.audits.record import Outcome, Recorded, audit_board, write_record
from ttame_core.audits.recorded import connect_audit, own_values
from ttame_core.lake import Lake
from ttame_core.lake.query.boards import scores_state
from ttame_core.lake.schemas import YARDSTICK
from ttame_core.report.album import Exhibit, exhibits
from ttame_core.report.evidence import weigh
from ttame_core.report.findings import gather
from ttame_core.report.page import render_page
from ttame_core.report.plots import COLOURS, Plots, looks
from ttame_core.report.rendering import render
from ttame_core.report.tables import Best, headline
from ttame_core.report.verdict import judge
from ttame_core.stages.roles import Role

Known = tuple[Lake, spec.AuditSpec]
RECORD = "known/20260201T000000Z"  # of the fixture `report`
pytestmark = pytest.mark.usefixtures("report")
CHANGE = {
    "gate": "ad15",
    "backbone": "net",
    "explainer": "ttame",
    "metric": "AD@15",
    "previous": 10.0,
    "value": 20.0,
    "change": 10.0,
    "ci_low": 8.0,
    "ci_high": 12.0,
    "failed": True,
    "words": f"AD@15 rose {HOSTILE}",
}


class _Tags(HTMLParser):
    """Counts start tags, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found[tag] = self.found.get(tag, 0) + 1
        self.ids += [value for name, value in attributes if name == "id" and value]
        assert not any(name.startswith("on") for name, _ in attributes)


def _render(
    known: Known,
    winners: dict[str, dict[str, Best]] | None = None,
    exhibits: dict[str, list[Exhibit]] | None = None,
    **changes: Any,
) -> str:
    lake, audit = known
    board = audit_board(lake, audit)
    with connect_audit(lake, audit) as db:
        findings = gather(db, audit, board, "20260301T000000Z")
        now = datetime(2026, 3, 1, tzinfo=UTC)
        recorded = Recorded(lake, db, audit, "", "", now, board, {}, [], [], {"ttame": "0"}, {})
        recorded = replace(recorded, **changes)
        with own_values(db, lake, RECORD):
            evidence = weigh(recorded, findings)
        verdict = judge(recorded, findings, winners or {}, evidence)
        return render_page(recorded, findings, winners or {}, exhibits or {}, verdict)


def test_the_page_carries_everything_and_escapes_it(report: Path) -> None:
    page = report.read_text()
    assert "annotated box" in page
    assert page.index("<img") < page.index("<table")
    tags = _Tags()
    tags.feed(page)
    assert tags.found["script"] == 1
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;img src=x" in page
    assert len(set(tags.ids)) == len(tags.ids)
    for part in ("best", "shortcuts", "wrong", "leaderboard", "plots", "gallery", "classes"):
        assert part in tags.ids
    assert "Audit known" in page
    assert "third failed" in page
    for name in ("ROAD", "Insertion and deletion", "Cost against", "Training of", "over audits"):
        assert name in page
    assert not re.search(r'(src|href)="(?!data:|#|images\.html")', page)
    assert len(page) < 10e6


def test_every_column_is_explained_on_paper(known: Known) -> None:
    page = _render(known)
    terms = re.findall(r"<dt>(.*?)</dt>", page)
    columns = set(re.findall(r'<th [^>]*data-name="([^"]+)"', page)) - {"backbone"}
    assert {"AD@15", "IC@15", "seconds", "forward_passes"} <= columns
    assert not [name for name in columns if not any(name in term for term in terms)]


def test_the_first_lines_say_what_was_left_out(known: Known) -> None:
    assert "left out" not in _render(known)
    page = _render(known, rejected={"file": 1200, "image": 1})
    sentence = "1 image and 1,200 other files were left out: ttame query"
    assert sentence in page
    assert page.index(sentence) < page.index("leaderboard")


def test_a_record_of_the_whole_data_set_says_of_which_scores_it_is(
    known: Known, report: Path, tmp_path: Path
) -> None:
    lake, audit = known
    record = json.loads((report.parent / "record.json").read_text())
    assert record["scores"] == scores_state(lake, audit.dataset.name)
    part = audit.model_copy(update={"name": "part", "explainers": audit.explainers[:1]})
    copy = Lake(shutil.copytree(lake.root, tmp_path / "copy"))
    folder = write_record(copy, part, Outcome({}, datetime(2026, 2, 2, tzinfo=UTC)), render)
    assert "scores" not in copy.read_json(f"{folder}/record.json")


def test_without_other_pictures_the_gallery_comes_first(report: Path, known: Known) -> None:
    parts = re.findall(r'<section id="(\w+)"', report.read_text())
    assert parts.index("gallery") > parts.index("leaderboard")
    lake, audit = known
    with connect_audit(lake, audit) as db:
        findings = gather(db, audit, audit_board(lake, audit), "20260301T000000Z")
        shown = exhibits(lake, db, "drawn", findings, "nowhere")
    page = _render(known, exhibits={kind: shown[kind] for kind in ("best", "disputed")})
    assert page.index("<img") < page.index("<table")


def test_changes_and_other_texts_are_escaped(known: Known) -> None:
    page = _render(
        known,
        changes=[CHANGE],
        refusals=[{"backbone": "net", "explainer": "x", "reason": HOSTILE}],
        frozen=f"a: {HOSTILE}",
    )
    assert HOSTILE not in page
    assert 'class="failed"' in page
    assert "<h2>Gates</h2>" in page
    page = _render(known, changes=[CHANGE | {"gate": ""}])
    assert "<h2>What changed since the last audit</h2>" in page


def test_only_what_is_certain_is_bold(known: Known) -> None:
    sure = {"AD@15": {"net": Best("23.5", True), "other": Best("23.5", False)}}
    page = _render(known, winners=sure)
    assert 'class="text sure"' in page
    cells = re.findall(r'<td data-v="[^"]*"[^>]*class="(best[^"]*)"', page)
    assert sorted(cells) == ["best", "best", "best sure", "best sure"]  # two tables have AD@15


def test_nothing_is_best_where_ad_and_ic_rank_nothing(known: Known) -> None:
    audit = known[1].model_copy(deep=True)
    evaluation = audit.evaluation.model_copy(update={"minimum_discrimination": 99.0})
    audit = audit.model_copy(update={"evaluation": evaluation})
    page = _render((known[0], audit), winners={"AD@15": {"net": Best("23.5", True)}})
    assert "AD/IC void" in page
    assert 'class="best' not in page
    assert 'class="text sure"' not in page


def test_headline_has_one_of_each_kind() -> None:
    metrics = ["AD@100", "AD@15", "IC@50", "ROAD", "box_iou@0.5", "box_iou", "strange"]
    assert headline(metrics) == ["AD@15", "IC@50", "ROAD", "box_iou"]


def test_colours_are_few_and_ttame_has_the_first() -> None:
    order = [f"e{i}" for i in range(9)] + ["ttame"]
    found = looks(order, {"random": Role("random", YARDSTICK)})
    assert found["ttame"].place == 0
    assert found["e0"].place == 1
    assert sum(look.place is not None for look in found.values()) == COLOURS
    assert found["random"].place is None


def test_plots_have_titles_the_pages_colours_and_ids_of_their_own(known: Known) -> None:
    board = audit_board(*known)
    ends = {name: Role(name, YARDSTICK) for name in ("random", "oracle")}
    plots = Plots(looks(["ttame", "gradcam"], ends))
    panels = [*plots.kept(board.to_pylist(), "AD"), *plots.cost(board.to_pylist(), "AD@15")]
    assert [panel.title for panel in panels] == ["net", "other"] * 2
    ids = [i for panel in panels for i in set(re.findall(r'\bid="([^"]*)"', panel.svg))]
    assert len(ids) == len(set(ids))
    for panel in panels:
        assert panel.svg.startswith("<svg viewBox")
        assert "<title" in panel.svg
        assert "ttame" in panel.svg
        assert "var(--s1)" in panel.svg
        assert "#a000" not in panel.svg
        assert "http" not in panel.svg


def test_there_is_no_plot_without_data() -> None:
    plots = Plots({})
    assert plots.kept([], "IC") == plots.removal([], "MoRF") == plots.steps([], "insertion") == []
    assert plots.sizes([], "energy_in_box") == plots.cost([], "AD@15") == []
    assert plots.ranks([]) is None
    assert plots.scale([], "AD@15") == []
