"""Opening of a spec: the one place where its methods are checked against the registries.

`ttame_core.spec` declares what a spec may say, and knows no method. The registries know the
settings of explainers and of families of metrics, the metrics that a gate can name, and the
objectives of trainings.

To add a check:

- For a part with settings of its own, such as a new kind of method: write a function that returns
  the part with its defaults filled in, or raises SpecProblem or SpecProblems, and name it in
  `PARTS` beside the keys that lead to the part. If the part is a list, the function gets each
  entry.
- For a rule between parts: write a function that takes the audit with complete parts, and yields a
  SpecProblem with its location for each mistake, and name it in `RULES`.

Locations are the keys and list positions in the spec; reading a file turns them into line numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ttame_core import spec
from ttame_core.audits.gates import check_names
from ttame_core.data import kinds
from ttame_core.data.annotations import REGISTRY as ANNOTATIONS
from ttame_core.data.sources import REGISTRY as SOURCES
from ttame_core.errors import UserError, nearest
from ttame_core.explainers import REGISTRY as EXPLAINERS
from ttame_core.explainers import training_of
from ttame_core.lake.families import schema_of
from ttame_core.metrics import REGISTRY as METRICS
from ttame_core.spec.load import SpecProblem, SpecProblems
from ttame_core.training.objectives import objective_of


def open_spec(path: str | Path, variables: Mapping[str, str] | None = None) -> spec.AuditSpec:
    """Read a spec from its file, check it, and fill in the defaults of all methods.

    Args:
        path: path of the YAML file.
        variables: texts that replace `${NAME}` in the file, by name; they take precedence over
            environment variables.

    Raises:
        UserError: the spec is wrong; a line for each problem has file, line, key, what is wrong,
            and what is allowed.
    """
    return spec.load_spec(path, variables, complete)


def complete(audit: spec.AuditSpec) -> spec.AuditSpec:
    """Fill in the settings of all explainers and metrics, and check all names of methods.

    A complete spec stays as it is.

    Raises:
        SpecProblems: the spec is wrong.
    """
    problems: list[SpecProblem] = []
    for keys, complete_part in PARTS:
        audit = _with_part(audit, keys, complete_part, problems)
    if not problems:
        problems += [problem for rule in RULES for problem in rule(audit)]
    if problems:
        raise SpecProblems(problems)
    return audit


def complete_source(section: spec.Source) -> spec.Source:
    """Fill in the settings of a source of pictures.

    Raises:
        SpecProblems: the kind of source is unknown, or one of its keys is wrong.
    """
    return kinds.complete(section, SOURCES)


def complete_annotations(section: spec.Annotations | None) -> spec.Annotations | None:
    """Fill in the settings of annotations; None where there are none.

    Raises:
        SpecProblems: the kind of annotations is unknown, or one of its keys is wrong.
    """
    return section and kinds.complete(section, ANNOTATIONS)


def complete_explainer(section: spec.Explainer) -> spec.Explainer:
    """Fill in the settings of an explainer.

    Raises:
        SpecProblem: there is no such explainer, or it has no such setting.
    """
    settings = _settings("explainer", section.method, section.settings, EXPLAINERS)
    return section.model_copy(update={"settings": settings})


def complete_metric(section: spec.Metric) -> spec.Metric:
    """Fill in the settings of a family of metrics.

    Raises:
        SpecProblem: there is no such family, or it has no such setting.
        UserError: the family is another package's, which does not define its columns.
    """
    settings = _settings("metric", section.family, section.settings, METRICS)
    schema_of(section.family)
    return section.model_copy(update={"settings": settings})


def _with_part(
    section: Any,
    keys: tuple[str, ...],
    complete_part: Callable[[Any], Any],
    problems: list[SpecProblem],
    location: tuple[str | int, ...] = (),
) -> Any:
    """Return a section with a part of it completed.

    Args:
        section: a section of the spec, or a list of sections.
        keys: keys that lead from the section to the part.
        complete_part: function that returns the part completed, or raises SpecProblem or
            SpecProblems.
        problems: list to which the part's problems are added.
        location: location of the section in the spec.
    """
    if keys:
        key, *rest = keys
        part = getattr(section, key)
        part = _with_part(part, tuple(rest), complete_part, problems, (*location, key))
        return section.model_copy(update={key: part})
    if isinstance(section, list):
        return [
            _with_part(entry, (), complete_part, problems, (*location, number))
            for number, entry in enumerate(section)
        ]
    try:
        return complete_part(section)
    except SpecProblem as problem:
        problems.append(problem.below(*location))
    except SpecProblems as several:
        problems += [problem.below(*location) for problem in several.problems]
    return section


def _settings(
    kind: str, name: str, given: Mapping[str, Any], registry: Mapping[str, Any]
) -> dict[str, Any]:
    """Validate the settings of an explainer or a family of metrics, and fill in their defaults."""
    if name not in registry:
        allowed = ", ".join(sorted(registry))
        raise SpecProblem(f"unknown {kind} {name}; allowed: {allowed}." + nearest(name, registry))
    model: type[BaseModel] = registry[name].Settings
    try:
        return model.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        keys = {"images", *model.model_fields}
        raise SpecProblem(spec.problem_of(error, keys, name)) from None


def _check_gates(audit: spec.AuditSpec) -> Iterator[SpecProblem]:
    """Yield a problem for each gate that names something that the audit does not have."""
    for gate in audit.gates:
        try:
            check_names(gate, audit)
        except ValueError as error:
            yield SpecProblem(str(error), ("gates",))


def _check_objectives(audit: spec.AuditSpec) -> Iterator[SpecProblem]:
    """Yield a problem for each training whose objective is unknown."""
    trainings: dict[tuple[str | int, ...], spec.Training] = {
        ("training", "objective"): audit.training
    }
    for number, explainer in enumerate(audit.explainers):
        if explainer.training:
            trainings["explainers", number] = training_of(audit.training, explainer)
    wrong = set()
    for place, training in trainings.items():
        if training.objective in wrong:  # an explainer's is the section's own
            continue
        try:
            objective_of(training.objective)
        except UserError as error:
            wrong.add(training.objective)
            yield SpecProblem(str(error), place)


def _check_shares(audit: spec.AuditSpec) -> Iterator[SpecProblem]:
    """Yield a problem for each training whose batch cannot be divided among the devices."""
    batch, devices = audit.training.batch_size, audit.compute.devices
    if batch % devices:
        yield SpecProblem(
            f"training.batch_size, {batch}, does not divide among {devices} compute.devices"
        )
        return
    for explainer in audit.explainers:
        own = training_of(audit.training, explainer).batch_size if explainer.training else batch
        if own % devices:
            yield SpecProblem(
                f"training.batch_size of {explainer.name}, {own}, does not divide among "
                f"{devices} compute.devices"
            )


# The parts that the registries complete: keys that lead to a part, and the function for it.
PARTS: tuple[tuple[tuple[str, ...], Callable[[Any], Any]], ...] = (
    (("dataset", "source"), complete_source),
    (("dataset", "annotations"), complete_annotations),
    (("explainers",), complete_explainer),
    (("evaluation", "metrics"), complete_metric),
)
# The rules that must hold between complete parts of a spec.
RULES: tuple[Callable[[spec.AuditSpec], Iterator[SpecProblem]], ...] = (
    _check_gates,
    _check_objectives,
    _check_shares,
)
