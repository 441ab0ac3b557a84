"""The leaderboard as people read it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from rich.console import Console
from rich.table import Table

from ttame_core.explainers import REGISTRY
from ttame_core.lake.query.units import shown
from ttame_core.lake.schemas import CONTROL, LEADERBOARD, RIVAL
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.report.listings import explainers_table, metrics_table, outlines
from ttame_core.report.tables import (
    Best,
    backbones_table,
    best,
    leaderboard_tables,
    principal,
    records,
    refusals,
    warnings,
    wide,
)

VALUES = {
    ("net", "ttame"): {"AD@100": 30.0, "AD@15": 40.04, "IC@15": 9.0, "pointing_game": 70.0},
    ("net", "gradcam"): {"AD@100": 20.0, "AD@15": 40.0, "IC@15": 10.0, "pointing_game": 60.0},
    ("net", "random"): {"AD@100": 90.0, "AD@15": 95.0, "IC@15": 99.0, "pointing_game": 10.0},
    ("net", "oracle"): {"AD@100": 1.0, "AD@15": 2.0, "IC@15": 50.0, "pointing_game": 100.0},
    ("net", "-"): {"accuracy": 96.5, "discrimination": 93.0},
    ("blind", "ttame"): {"AD@100": 50.0, "AD@15": 50.0, "IC@15": 5.0},
    ("blind", "-"): {"accuracy": 93.6, "discrimination": 7.5},
    ("bare", "ttame"): {"AD@15": 50.0},
    ("bare", "-"): {"accuracy": 90.0},
}


@pytest.fixture
def board() -> pa.Table:
    rows = [
        {
            "dataset": "d",
            "backbone": backbone,
            "explainer": explainer,
            "metric": metric,
            "value": value,
            "ci_low": max(value - 2, 0),
            "ci_high": min(value + 2, 100),
            "images": 50,
            "method": None if explainer == "-" else explainer,
            "role": None if explainer == "-" else REGISTRY[explainer].role,
        }
        for (backbone, explainer), metrics in VALUES.items()
        for metric, value in metrics.items()
    ]
    return pa.Table.from_pylist(rows, schema=LEADERBOARD)


def test_wide_has_a_row_per_explainer_and_its_backbones_own_values(board: pa.Table) -> None:
    metrics, rows = wide(board)
    assert metrics == ["AD@100", "AD@15", "IC@15", "pointing_game"]
    assert [(r["backbone"], r["explainer"]) for r in rows] == [
        ("bare", "ttame"),
        ("blind", "ttame"),
        ("net", "ttame"),
        ("net", "gradcam"),
        ("net", "oracle"),
        ("net", "random"),
    ]
    assert rows[2]["AD@15"]["value"] == 40.04
    assert rows[2]["accuracy"]["value"] == 96.5
    assert rows[1]["pointing_game"] is None
    assert rows[0]["discrimination"] is None


def test_yardsticks_never_win_equals_share_and_one_alone_beats_nobody(board: pa.Table) -> None:
    _, rows = wide(board)
    assert best(rows, "AD@100") == {"net": Best("20.0", apart=True)}
    assert best(rows, "AD@15") == {"net": Best("40.0", apart=False)}  # both are shown as 40.0
    assert best(rows, "IC@15") == {"net": Best("10.0", apart=False)}  # within the intervals


def test_tables_show_every_value(board: pa.Table) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    (table,) = leaderboard_tables(board)
    console.print(table)
    console.print(backbones_table(board))
    text = console.export_text()
    for metrics in VALUES.values():
        for value in metrics.values():
            assert f"{value:.1f}" in text
    rows = records(board)
    assert len(rows) == 6
    assert rows[2] == {
        "backbone": "net",
        "explainer": "ttame",
        "accuracy": "96.5",
        "discrimination": "93.0",
        "AD@100": "30.0",
        "AD@15": "40.0",
        "IC@15": "9.0",
        "pointing_game": "70.0",
    }


def test_explainers_are_listed_with_cost_needs_settings_and_paper() -> None:
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(explainers_table(REGISTRY))
    lines = {line.split()[0]: line for line in console.export_text().splitlines() if line.strip()}
    assert set(REGISTRY) <= set(lines)
    assert "head" in lines["ttame"]
    assert "arXiv 2403.04523" in lines["ttame"]
    assert "annotations" in lines["oracle"]
    assert "steps: 50" in lines["integrated_gradients"]
    assert "arXiv 1703.01365" in lines["integrated_gradients"]
    assert " path " in lines["imported"]
    assert "C + 1" in lines["ablationcam"]
    names = [*lines]
    assert names.index("oracle") > names.index("ttame")  # the ends of the scale come last


@pytest.mark.parametrize(
    ("from_source", "from_classes"),
    [
        (explainers_table(outlines("explainers", "Explainer")), explainers_table(REGISTRY)),
        (metrics_table(outlines("metrics", "Family")), metrics_table(FAMILIES)),
    ],
)
def test_what_is_read_from_source_is_what_the_classes_say(
    from_source: Table, from_classes: Table
) -> None:
    texts = []
    for table in (from_source, from_classes):
        console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(table)
        texts.append(console.export_text())
    assert texts[0] == texts[1]


def _of_metrics(values: dict[str, float]) -> pa.Table:
    rows = [
        {"dataset": "d", "backbone": "net", "explainer": explainer, "metric": metric}
        | {"value": value, "ci_low": value, "ci_high": value, "images": 9}
        | {"method": explainer, "role": RIVAL}
        for explainer in ("ttame", "rise")
        for metric, value in values.items()
    ]
    return pa.Table.from_pylist(rows, schema=LEADERBOARD)


MANY = {
    "AD@100": 1.0,
    "AD@50": 2.0,
    "AD@15": 3.0,
    "AD@10": 4.0,
    "AD@15/blur": 5.0,
    "IC@15": 6.0,
    "ROAD": 12.3456,
    "insertion": 71.23,
    "deletion": 9.99,
    "pointing_game": 70.0,
    "max_sensitivity": 0.1,
    "seconds": 0.0123,
    "forward_passes": 4001.0,
    "strange": 1234.5,
}


def test_a_terminal_shows_what_is_principal_and_what_fits() -> None:
    metrics, _ = wide(_of_metrics(MANY))
    assert metrics == list(MANY)
    chosen = principal(metrics)
    assert chosen == [m for m in MANY if m not in ("AD@10", "AD@15/blur", "strange")]
    (whole,) = leaderboard_tables(_of_metrics(MANY), 200)
    assert len(whole.columns) == 2 + len(chosen)
    assert "3 more metrics" in str(whole.caption)
    parts = leaderboard_tables(_of_metrics(MANY), 70)
    assert len(parts) > 1
    console = Console(width=70, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in parts:
        console.print(part)
    text = console.export_text()
    assert "…" not in text
    for value in ("12.3", "71.2", "0.0123", "0.100", "4001", "70.0"):
        assert text.split().count(value) == 2


def test_values_have_their_units() -> None:
    assert shown(12.345, "AD@15") == "12.3"
    assert shown(0.01234, "seconds") == "0.0123"
    assert shown(4000.4, "forward_passes") == "4000"
    assert shown(1.03, "forward_passes") == "1.03"
    assert shown(0.4567, "complexity") == "0.457"
    assert shown(0.5, "unheard_of") == "0.500"
    assert shown(0.00012, "unheard_of") == "0.00012"
    assert [shown(v, "unheard_of") for v in (0.0, -2.45e-17, 1e-9)] == ["0", "0", "1e-09"]


def test_refusals_are_a_sentence_each() -> None:
    rows = [{"backbone": "resnet", "explainer": "rollout", "reason": "it has no attention"}]
    assert refusals(rows) == ["rollout does not apply to resnet: it has no attention"]


def test_it_is_said_where_ad_and_ic_rank_nothing(board: pa.Table) -> None:
    unknown, blind = warnings(board, 30)
    assert "bare is not known" in unknown
    assert "AD and IC rank nothing on blind" in blind
    assert "7.5 points apart (at least 30" in blind
    assert "cannot recognise an object" in blind
    *_, robust = warnings(board, 95)
    assert "rank nothing on net" in robust
    assert "Random parts of these images do nearly as well as the objects." in robust
    assert len(warnings(board, 5)) == 1


def test_who_wins_follows_from_roles_not_from_names() -> None:
    drops = {"oracle-like": ("gradcam", RIVAL, 20.0), "rise": ("rise", RIVAL, 30.0)}
    drops["mixed"] = ("ttame", CONTROL, 10.0)
    rows = [
        {"dataset": "d", "backbone": "net", "explainer": name, "metric": "AD@15", "images": 9}
        | {"value": value, "ci_low": value, "ci_high": value, "method": method, "role": role}
        for name, (method, role, value) in drops.items()
    ]
    _, table = wide(pa.Table.from_pylist(rows, schema=LEADERBOARD))
    assert [row["explainer"] for row in table] == ["oracle-like", "rise", "mixed"]
    assert best(table, "AD@15")["net"] == Best("20.0", True)
