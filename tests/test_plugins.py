"""What other packages add by entry points, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from worked_out import forget_families

from ttame_core import spec
from ttame_core.audits.specification import complete_metric
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, Explainer
from ttame_core.lake import Lake, families
from ttame_core.lake.query import directions
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics import REGISTRY as METRICS
from ttame_core.metrics import Family
from ttame_core.plugins import Registry, of_class, versions

Install = Callable[..., None]
EXPLAINER = """
from ttame_core.explainers import Explainer
class Mine(Explainer):
    name = "mine"
    def attribute(self, forward, targets): ...
"""
SCORE = """
from ttame_core.lake.families import Scores
MINE = Scores.from_sql('''/*
columns: {{size: FLOAT}}
metrics: {{"{pattern}": {{better: lower, description: how large}}}}
*/
{sql}''')
"""
SELECT = 'SELECT dataset, backbone, explainer, key, "size" FROM mine'


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package of one module onto the path, with its entry points by group."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def put(package: str, code: str = "", **groups: str) -> None:
        (site / f"{package}.py").write_text(code)
        about = site / f"{package}-1.2.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = (f"[ttame.{group}]\n{line}\n" for group, line in groups.items())
        (about / "entry_points.txt").write_text("".join(lines))
        monkeypatch.delitem(sys.modules, package, raising=False)

    return put


def _explainers() -> Registry[type[Explainer]]:
    """As of a process that starts now."""
    own = {name: REGISTRY[name] for name in ("center", "random")}
    return Registry("ttame.explainers", own, of_class(Explainer))


def test_a_name_is_known_before_its_package_is_imported(install: Install) -> None:
    install("theirs", EXPLAINER, explainers="mine = theirs:Mine")
    found = _explainers()
    assert "mine" in found
    assert list(found) == ["center", "random", "mine"]
    assert len(found) == 3
    assert found["center"] is REGISTRY["center"]
    assert "theirs" not in sys.modules
    assert found["mine"].name == "mine"
    assert found["mine"] is found["mine"]
    assert versions()["theirs"] == "1.2"
    with pytest.raises(KeyError):
        found["yours"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import not_there", "cannot be loaded (ModuleNotFoundError: No module named 'not_there')"),
        ("1 / 0", "cannot be loaded (ZeroDivisionError: division by zero)"),
        ("", "cannot be loaded (AttributeError"),
        ("Mine = 3", "is no subclass of ttame_core.explainers.base.Explainer"),
        (EXPLAINER.replace('"mine"', '"yours"'), "is a class whose name is 'yours'"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_package(
    install: Install, code: str, words: str
) -> None:
    install("theirs", code, explainers="mine = theirs:Mine")
    found = _explainers()
    assert found["random"] is REGISTRY["random"]  # who does not ask for it is not disturbed
    with pytest.raises(UserError) as told:
        found["mine"]
    message = str(told.value)
    assert message.startswith("the entry point mine = theirs:Mine (ttame.explainers) of theirs ")
    assert words in message
    assert "\n" not in message


def test_a_name_that_is_taken_is_refused(install: Install) -> None:
    install("theirs", EXPLAINER, explainers="center = theirs:Mine")
    for ask in (lambda r: r["center"], lambda r: r["random"], list):
        with pytest.raises(UserError, match=r"of theirs has a name that ttame itself has already"):
            ask(_explainers())


def test_two_packages_with_one_name_are_refused(install: Install) -> None:
    install("theirs", EXPLAINER, explainers="mine = theirs:Mine")
    install("others", EXPLAINER, explainers="mine = others:Mine")
    with pytest.raises(UserError, match=r"of theirs has a name that the package others has"):
        list(_explainers())


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Look again at which families there are."""

    yield forget_families
    monkeypatch.undo()
    forget_families()


def test_scores_of_another_package_are_in_sql(
    install: Install, fresh: Callable[[], None], tmp_path: Path
) -> None:
    code = SCORE.format(sql=SELECT, pattern="size*")
    install("theirs", code, scores="mine = theirs:MINE")
    fresh()
    assert families.schema_of("mine").names == ["key", "label", "predicted", "target", "size"]
    lake = Lake(tmp_path / "lake")
    row = {"key": "a", "label": 0, "predicted": 0, "target": 0, "size": 7.0}
    path = "scores/metric=mine/dataset=d/backbone=b/explainer=e/s.parquet"
    lake.write_parquet(path, [row], families.schema_of("mine"), "x")
    assert run_query(lake, "SELECT value FROM leaderboard WHERE metric = 'size'")[0][0].as_py() == 7
    assert run_query(lake, 'SELECT "size" FROM mine')[0].to_pylist() == [7.0]
    listed = run_query(lake, "SELECT family, description FROM metrics ORDER BY place DESC LIMIT 1")
    assert listed.to_pylist() == [{"family": "mine", "description": "how large"}]
    assert directions.direction("size@3").lower_is_better is True


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        (
            "mine",
            SCORE.format(sql="SELECT 1 AS x FROM nothing", pattern="size"),
            "SQL of the entry",
        ),
        ("mine", SCORE.format(sql=SELECT, pattern="AD@7"), "has a metric AD@7, and AD@* is there"),
        ("mine", SCORE.format(sql=SELECT, pattern="ins*"), "has a metric ins*, and insertion* is"),
        ("samples", SCORE.format(sql=SELECT, pattern="size"), "the name of a view of ttame"),
        ("ranks", SCORE.format(sql=SELECT, pattern="size"), "the name of a view of ttame"),
        ("my-own", SCORE.format(sql=SELECT, pattern="size"), "cannot have for a view"),
        ("shape", SCORE.format(sql=SELECT, pattern="size"), "a name that ttame itself has"),
        ("mine", "MINE = 3", "is no ttame_core.lake.families.Scores"),
        (
            "mine",
            SCORE.format(sql=SELECT, pattern="size").replace("FLOAT", "TEXT"),
            "unknown type TEXT",
        ),
        ("mine", SCORE.format(sql=SELECT, pattern="size").replace("/*", "--"), "does not begin"),
    ],
)
def test_scores_that_cannot_be_used_are_told(
    install: Install, fresh: Callable[[], None], tmp_path: Path, entry: str, code: str, words: str
) -> None:
    install("theirs", code, scores=f"{entry} = theirs:MINE")
    fresh()
    with pytest.raises(UserError) as told:
        run_query(Lake(tmp_path / "lake"), "FROM samples")
    assert words in str(told.value)
    assert f"{entry} = theirs:MINE (ttame.scores) of theirs" in str(told.value)


def test_a_family_without_scores_is_told(
    install: Install, fresh: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from ttame_core.metrics import Family\nclass Mine(Family):\n    name = 'mine'\n"
    install("theirs", code, metrics="mine = theirs:Mine")
    fresh()
    registry = Registry("ttame.metrics", {}, of_class(Family))
    monkeypatch.setattr("ttame_core.audits.specification.METRICS", registry)
    with pytest.raises(UserError, match=r"which columns the metric mine has.*group ttame\.scores"):
        complete_metric(spec.Metric.model_validate("mine"))


def test_types_of_columns_are_those_of_arrow() -> None:
    head = "/*\ncolumns:\n  a: FLOAT\n  b: VARCHAR\n  c: BOOLEAN\n  d: FLOAT[]\n  e: FLOAT[196]\n"
    scores = families.Scores.from_sql(head + "metrics: {a: {description: x}}\n*/\nSELECT 1")
    types = [pa.float32(), pa.string(), pa.bool_(), pa.list_(pa.float32())]
    assert scores.columns == list(zip("abcde", [*types, pa.list_(pa.float32(), 196)], strict=True))
    assert scores.metrics == [families.Metric("a", None, "x")]
    assert scores.values == "SELECT 1"


def test_own_families_are_sql_files_beside_their_classes() -> None:
    own = {name for name in families.registry() if name not in families.registry().added}
    assert own >= set(METRICS) - set(METRICS.added) | {"accuracy", "cost", "random_labels"}
    assert directions.source("sanity_labels") == "shape"
    assert directions.source("sanity_ssim@50") == "sanity"
    assert directions.source("AD@15/blur") == "confidence"
    with pytest.raises(UserError, match="which columns the metric accuracy has"):
        families.schema_of("accuracy")
