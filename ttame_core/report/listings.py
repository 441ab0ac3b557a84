"""Listings for the terminal: explainers, metrics, architectures, and the trials of a sweep."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from importlib import resources
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.fields import FieldInfo
from rich import box
from rich.table import Table
from rich.text import Text

from ttame_core import spec
from ttame_core.lake.query.directions import directions
from ttame_core.lake.schemas import RIVAL, YARDSTICK
from ttame_core.plugins import has_additions
from ttame_core.report.answers import Answer
from ttame_core.report.tables import arrow

if TYPE_CHECKING:
    from ttame_core.explainers import Explainer
    from ttame_core.metrics import Family
    from ttame_core.training.coverage import Coverage

TONES = {"good": "green", "care": "yellow", "bad": "red", "plain": ""}


def answers_table(answers: Sequence[Answer]) -> Table:
    """Make a table of the short answers at the top of a report, a line each with its question."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for own in answers:
        table.add_row(Text(own.question), Text(own.short, style=f"bold {TONES[own.tone]}".strip()))
    return table


def coverage_line(coverage: Coverage) -> str:
    """Write an architecture as a line: its taps (stride, channels, layout), its maps, its head."""
    taps = " · ".join(
        f"{tap.name} /{coverage.input_size[0] / tap.height:.3g} {tap.channels} {tap.layout}"
        for tap in coverage.taps
    )
    size = "×".join(map(str, coverage.input_size))
    maps = "×".join(map(str, coverage.map_size))
    return (
        f"{coverage.model:<44} {size:>9}  {taps}  maps {maps}  "
        f"head {coverage.head_parameters / 1e6:.1f} of {coverage.parameters / 1e6:.1f} M"
    )


def sweep_table(
    title: str, trials: Sequence[Mapping[str, float]], shortfall: Mapping[str, float]
) -> Table:
    """Make the table of a sweep's trials, best first, with the distance of the spec's settings.

    Args:
        title: title of the table.
        trials: swept settings and objectives of each trial, the spec's own settings first.
        shortfall: distance of the spec's settings from the best value of each objective.
    """
    names = [*trials[0]]
    behind = " and ".join(f"{points:.1f} points of {name}" for name, points in shortfall.items())
    table = Table(
        title=title,
        caption=f"The spec's own settings are trial 0, {behind} behind the best found.",
        box=box.SIMPLE_HEAD,
        header_style="bold",
    )
    for name in ("trial", *names):
        table.add_column(name.replace("lambda_", "λ "), justify="right", no_wrap=True)
    ranked = sorted(enumerate(trials), key=lambda item: item[1]["AD@15"] - item[1]["IC@15"])
    for number, trial in ranked:
        style = "bold" if number == 0 else None
        values = [f"{trial[n]:.1f}" if "@" in n else f"{trial[n]:.3g}" for n in names]
        table.add_row(str(number), *values, style=style)
    return table


def all_explainers() -> Mapping[str, type[Explainer]]:
    """Return all explainers for a listing: ttame's own without importing what they compute with."""
    if not has_additions("ttame.explainers"):
        return outlines("explainers", "Explainer")
    from ttame_core.explainers import REGISTRY

    return REGISTRY


def all_families() -> Mapping[str, type[Family]]:
    """Return all families of metrics for a listing, as `all_explainers` does."""
    if not has_additions("ttame.metrics"):
        return outlines("metrics", "Family")
    from ttame_core.metrics import REGISTRY

    return REGISTRY


def explainers_table(explainers: Mapping[str, type[Explainer]]) -> Table:
    """Make the table of explainers: costs, needs, applicability, settings and paper of each."""
    table = _listing("explainer", "forward", "backward", "needs", "applies to", "settings")
    for explainer in sorted(explainers.values(), key=lambda e: (e.role != RIVAL, e.name)):
        cells = (
            explainer.name,
            explainer.forwards,
            explainer.backwards,
            _needs(explainer),
            explainer.applies_to,
            _settings(explainer.Settings),
            _headline(explainer),
        )
        table.add_row(*map(Text, cells))
    return table


def metrics_table(families: Mapping[str, type[Family]]) -> Table:
    """Make the table of families of metrics, with their settings and metrics.

    A metric has ↑ where higher is better, and ↓ where lower is. In a name such as AD@*, the *
    stands for a number, as in AD@15.
    """
    table = _listing("family", "metrics", "settings")
    for name, family in sorted(families.items()):
        metrics = ", ".join(
            f"{_listed(pattern)} {arrow(pattern)}".rstrip()
            for pattern, known in directions().items()
            if known.family == name
        )
        table.add_row(*map(Text, (name, metrics, _settings(family.Settings), _headline(family))))
    return table


def _listed(pattern: str) -> str:
    return pattern if pattern.endswith(("@*", "_*")) else pattern.removesuffix("*")


def _listing(key: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1))
    table.add_column(key, no_wrap=True)
    for name in (*columns, "what it is"):
        table.add_column(name)
    return table


def _headline(documented: type) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]


def _needs(explainer: type[Explainer]) -> str:
    needs = {"head": explainer.needs_head, "annotations": explainer.needs_annotations}
    return ", ".join(name for name, needed in needs.items() if needed)


def _settings(section: type[spec.Section]) -> str:
    """Write a section's keys with their defaults; without them where they are missing or long."""

    def text(name: str, field: FieldInfo) -> str:
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, list):
            default = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in default)
            return f"{name}: [{default}]"
        return f"{name}: {default}" if isinstance(default, int | float | str) else name

    return ", ".join(text(*item) for item in section.model_fields.items())


# ---- classes, read from their source --------------------------------------------------------

LISTED = {"name", "role", "forwards", "backwards", "needs_head", "needs_annotations", "applies_to"}


class _Section:
    """The keys of a section with their defaults; what they take is not looked at."""

    model_fields: ClassVar[dict[str, FieldInfo]] = {}

    def __init_subclass__(cls) -> None:
        defaults = {name: vars(cls).get(name, ...) for name in cls.__annotations__}
        fields = {n: d if isinstance(d, FieldInfo) else Field(d) for n, d in defaults.items()}
        cls.model_fields = cls.model_fields | fields


def outlines(package: str, base: str) -> Mapping[str, Any]:
    """Make outlines of a package's classes from its source, without importing the package.

    An outline has a class's docstring, its attributes that are listed (LISTED) and the keys of its
    settings. PyTorch, which takes seconds to import, is needed by methods only.

    Args:
        package: name of a package in `ttame_core`.
        base: name of the class of which subclasses are outlined. What is listed of them consists
            of literals, names that `known` has, and attributes of other outlines.

    Returns:
        The subclasses that have a name of their own, by this name.
    """
    files = resources.files("ttame_core").joinpath(package).iterdir()
    sources = [file.read_text("utf-8") for file in files if file.name.endswith(".py")]
    nodes = [node for source in sources for node in ast.parse(source).body]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    known: dict[str, Any] = {"ABC": object, "RIVAL": RIVAL, "YARDSTICK": YARDSTICK, "Field": Field}
    known["spec"] = SimpleNamespace(Section=_Section, Backbone=spec.Backbone)

    def inherits(name: str) -> bool:
        bases = {b.id for b in classes[name].bases if isinstance(b, ast.Name)}
        return name == base or any(map(inherits, bases & classes.keys()))

    def outline(name: str) -> Any:
        if name not in known:
            node = _outlined(classes[name])
            for used in _names(node, ast.Load) & classes.keys():
                outline(used)
            exec(compile(ast.Module([node], []), name, "exec"), known)
        return known[name]

    outlined = [outline(name) for name in classes if inherits(name)]
    return {cls.name: cls for cls in outlined if "name" in vars(cls)}


def _outlined(node: ast.ClassDef) -> ast.ClassDef:
    """Take from a class all but its docstring, what is listed of it, and the settings' keys."""

    def stays(part: ast.stmt) -> bool:
        match part:
            case ast.ClassDef():
                return part.name == "Settings"
            case ast.AnnAssign() if node.name == "Settings":
                return True
            case ast.Assign() | ast.AnnAssign():
                return bool(_names(part, ast.Store) & LISTED)
        return isinstance(part, ast.Expr)

    parts = filter(stays, node.body)
    node.body = [_outlined(part) if isinstance(part, ast.ClassDef) else part for part in parts]
    return node


def _names(node: ast.AST, use: type[ast.expr_context]) -> set[str]:
    """Return the names that code reads (`ast.Load`) or sets (`ast.Store`)."""
    names = (part for part in ast.walk(node) if isinstance(part, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, use)}
