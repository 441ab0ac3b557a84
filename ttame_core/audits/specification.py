"""Opening a spec: what it says about methods is checked against the registries, in this one place.

`ttame_core.spec` declares what a spec may say and knows no method. Which settings an explainer or a
family of metrics takes, which metrics a gate can name, and how heads are trained, the registries
know. Each check below completes a part of the spec, or raises SpecProblem with the part's location.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ttame_core import spec
from ttame_core.audits.gates import check_names
from ttame_core.errors import nearest
from ttame_core.explainers import REGISTRY as EXPLAINERS
from ttame_core.explainers import training_of
from ttame_core.lake.families import schema_of
from ttame_core.metrics import REGISTRY as METRICS
from ttame_core.spec.load import SpecProblem, SpecProblems

Named = TypeVar("Named", spec.Explainer, spec.Metric)


def open_spec(path: str | Path, variables: Mapping[str, str] | None = None) -> spec.AuditSpec:
    """Read a spec and complete it.

    Args:
        path: of the YAML file.
        variables: texts that fill `${NAME}` in the file, beside the environment.

    Returns:
        The audit, with the defaults of all methods filled in.

    Raises:
        UserError: one line per problem: file, line, key, what is wrong, what is allowed.
    """
    return spec.load_spec(path, variables, complete)


def complete(audit: spec.AuditSpec) -> spec.AuditSpec:
    """Fill in the settings of all methods, and check all that the registries know.

    A spec that is complete stays as it is.

    Raises:
        SpecProblems: something is wrong.
    """
    problems: list[SpecProblem] = []
    explainers = _completed(audit.explainers, complete_explainer, ("explainers",), problems)
    metrics = _completed(
        audit.evaluation.metrics, complete_metric, ("evaluation", "metrics"), problems
    )
    evaluation = audit.evaluation.model_copy(update={"metrics": metrics})
    audit = audit.model_copy(update={"explainers": explainers, "evaluation": evaluation})
    if not problems:
        problems += [*_check_gates(audit), *_check_shares(audit)]
    if problems:
        raise SpecProblems(problems)
    return audit


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
        UserError: another package brings the family and does not say what rows it has.
    """
    settings = _settings("metric", section.family, section.settings, METRICS)
    schema_of(section.family)
    return section.model_copy(update={"settings": settings})


def _completed(
    sections: Sequence[Named],
    complete_one: Callable[[Named], Named],
    place: tuple[str, ...],
    problems: list[SpecProblem],
) -> list[Named]:
    """Complete the sections of a list; what is wrong with any of them is added to `problems`."""
    completed = []
    for number, section in enumerate(sections):
        try:
            completed.append(complete_one(section))
        except SpecProblem as problem:
            problems.append(problem.below(*place, number))
    return completed


def _settings(
    kind: str, name: str, given: Mapping[str, Any], registry: Mapping[str, Any]
) -> dict[str, Any]:
    """Validate the settings of one entry of a registry, and fill in their defaults."""
    if name not in registry:
        allowed = ", ".join(sorted(registry))
        raise SpecProblem(f"unknown {kind} {name}; allowed: {allowed}." + nearest(name, registry))
    model: type[BaseModel] = registry[name].Settings
    try:
        return model.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            names = sorted({"images", *model.model_fields})
            raise SpecProblem(
                f"{name} has no setting {key}; allowed: {', '.join(names)}." + nearest(key, names)
            ) from None
        words = spec.words_of(error)
        raise SpecProblem(f"{key} of {name}: {words} (got {first['input']!r})") from None


def _check_gates(audit: spec.AuditSpec) -> Iterator[SpecProblem]:
    """Check that gates name what the audit has."""
    for gate in audit.gates:
        try:
            check_names(gate, audit.backbones, audit.explainers, audit.evaluation)
        except ValueError as error:
            yield SpecProblem(str(error), ("gates",))


def _check_shares(audit: spec.AuditSpec) -> Iterator[SpecProblem]:
    """Check that every training's batch divides among the devices."""
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
