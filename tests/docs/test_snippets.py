"""Every command, spec and piece of Python in README.md and docs/*.md.

What they are held to:

- a line of `ttame …` in a block is parsed by the command line itself: the command, its options and
  the number and kind of its arguments; nothing is run. In running text, the command and its options
  must exist;
- `make …`, `python -m …` and `pip install 'ttame[…]'`: target, module and extra exist; packages of
  others are not looked up;
- a spec, and a part of one within an otherwise small spec, is validated as a spec; Prefect's own
  (`actions`) is read as YAML alone;
- Python runs, with a small network and a few images in place of what it loads; that of docs/sql.md
  runs in test_sql.py, and the files that docs/extending.md shows are those of examples/plugin, with
  which tests/flows/test_example_plugin.py audits;
- SQL is run by test_sql.py; in a command line it is put to an empty workspace.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from audited import audit_alone
from pages import PAGES, ROOT, TTAME, Line, blocks, commands, prose
from tiny import tiny_backbone
from worked_out import forget_families

import ttame_core as tt
from flows.cli import app
from ttame_core import metrics, spec
from ttame_core.audits.specification import complete, open_spec
from ttame_core.explainers import REGISTRY, Explainer
from ttame_core.exports.huggingface import export_dataset
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query
from ttame_core.metrics import Family
from ttame_core.plugins import Registry, of_class
from ttame_core.stages.provenance import Provenance

SECTIONS = set(spec.AuditSpec.model_fields)


COMMANDS = commands(TTAME)
SPANS = [
    Line(page, found) for page in PAGES for found in re.findall(r"`ttame ([^`]+)`", prose(page))
]
OTHERS = commands(r"((?:make|pip install|python -m) .*)") + [
    Line(page, found)
    for page in PAGES
    for found in re.findall(r"`((?:make|pip install|python -m) [^`]+)`", prose(page))
]


@cache
def _known() -> dict[str, Any]:
    """The commands, as click has them."""
    return typer.main.get_command(app).commands


def test_there_is_something_to_test() -> None:
    assert len(COMMANDS) > 30
    assert len(SPANS) > 20
    assert len(PYTHON) >= 3
    assert len(YAML) > 8


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: f"{line.page}: {line.text}"[:80])
@pytest.mark.usefixtures("with_example")
def test_command_lines_are_understood(line: Line, tmp_path: Path) -> None:
    name, *arguments = shlex.split(line.text, comments=True)
    command = _known()[name]
    with command.make_context(name, arguments) as context:  # raises where it is not understood
        if name == "query" and "$(" not in line.text:
            run_query(Lake(tmp_path), context.params["sql"])


@pytest.mark.parametrize("line", SPANS, ids=lambda line: f"{line.page}: {line.text}"[:80])
def test_commands_in_the_text_exist(line: Line) -> None:
    words = line.text.replace("…", " ").split()
    if not words or not re.match(r"[a-z-]+$", words[0]):
        return
    of_all = typer.main.get_command(app)
    command = of_all if words[0].startswith("--") else _known()[words[0]]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}


@pytest.mark.parametrize("line", OTHERS, ids=lambda line: line.text[:60])
def test_targets_modules_and_extras_exist(line: Line) -> None:
    words = shlex.split(line.text, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    elif words[0] == "python":
        assert find_spec(words[2])
    elif words[2].startswith("ttame["):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert words[2][6:-1] in project["optional-dependencies"]
    elif words[2].startswith("."):
        assert (ROOT / words[2] / "pyproject.toml").is_file()


def _yaml() -> Iterator[Line]:
    for page in PAGES:
        yield from (Line(page, block.text) for block in blocks(page, "yaml"))
        for indented in re.findall(r"^((?: {4}.*\n)+)", prose(page), re.M):
            if re.match(rf" {{4}}({'|'.join(SECTIONS)}):", indented):
                yield Line(page, re.sub(r"^ {4}", "", indented, flags=re.M))


YAML = list(_yaml())


@pytest.fixture
def with_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the package of examples/plugin is installed."""
    own = dict(REGISTRY), dict(metrics.REGISTRY)  # before there is another package
    package = ROOT / "examples/plugin"
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    about = tmp_path / "site/ttame_example-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ttame-example\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n{name} = {value}\n"
            for group, points in project["entry-points"].items()
            for name, value in points.items()
        )
    )
    for place in (about.parent, package):
        monkeypatch.syspath_prepend(place)
    explainers = Registry("ttame.explainers", own[0], of_class(Explainer))
    monkeypatch.setattr("ttame_core.explainers.REGISTRY", explainers)
    taken = Registry("ttame.metrics", own[1], of_class(Family))
    monkeypatch.setattr("ttame_core.metrics.REGISTRY", taken)
    monkeypatch.setattr("ttame_core.api.REGISTRY", explainers)
    monkeypatch.setattr("ttame_core.api.FAMILIES", taken)
    monkeypatch.setattr("ttame_core.audits.specification.EXPLAINERS", explainers)
    monkeypatch.setattr("ttame_core.audits.specification.METRICS", taken)
    forget_families()
    yield
    monkeypatch.undo()
    forget_families()


@pytest.mark.parametrize("part", YAML, ids=lambda part: f"{part.page}: {part.text[:30]!r}")
@pytest.mark.usefixtures("with_example")
def test_specs_are_valid(part: Line) -> None:
    given = yaml.safe_load(part.text)
    if given.keys() == {"actions"}:
        return
    small = {
        "name": "small",
        "dataset": {"name": "small", "source": {"kind": "shapes"}},
        "backbones": [{"model": "resnet50", "pretrained": True}],
    }
    complete(spec.AuditSpec.model_validate(small | given))


def _python() -> Iterator[Line]:
    shown = [path.read_text() for path in (ROOT / "examples/plugin").rglob("*.py")]
    for page in PAGES:
        if page != "docs/sql.md":
            for block in blocks(page, "python"):
                if block.text not in shown:
                    yield Line(page, block.text)


PYTHON = list(_python())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `ttame export-dataset … exported` writes."""
    folder = audit_alone(tmp_path_factory.mktemp("exported"), ["center"])
    provenance = Provenance(open_spec(folder / "audit.yaml"), Lake(folder / "workspace"))
    export_dataset(provenance, folder / "exported")
    return folder


@pytest.mark.parametrize("part", PYTHON, ids=lambda part: part.page)
@pytest.mark.usefixtures("with_example")
def test_python_runs(
    part: Line, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.chdir(exported)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    backbone = tiny_backbone()
    monkeypatch.setattr(tt, "load_backbone", lambda *_, **__: backbone, raising=False)
    monkeypatch.setattr(tt, "train_head", partial(tt.train_head, epochs=1), raising=False)
    images = torch.rand(8, 3, 64, 64)
    given = {
        "backbone": backbone,
        "images": images,
        "loader": [images],
        "boxes": [torch.tensor([[10.0, 10.0, 40.0, 30.0]])] * len(images),
    }
    exec(compile(part.text, part.page, "exec"), given)
    if "scores" in given:
        assert all(values.shape == (8,) for values in given["scores"].values())
        assert given["maps"].min() == 0
