"""Checking of sections whose keys depend on their `kind`, by the classes of a registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeVar

from pydantic import ValidationError

from ttame_core import spec
from ttame_core.errors import nearest
from ttame_core.spec.load import SpecProblem, SpecProblems, problems_of

Open = TypeVar("Open", bound=spec.OpenSection)


class Kind(Protocol):
    """A class that a section of a spec can name as its `kind`.

    Attributes:
        Settings: class of the section's keys beside `kind`.
    """

    Settings: ClassVar[type[spec.Section]]


def settings_of(section: spec.OpenSection, registry: Mapping[str, type[Kind]]) -> spec.Section:
    """Return the validated keys of a section beside its `kind`.

    Args:
        section: the section.
        registry: classes by kind.

    Raises:
        SpecProblems: the kind is unknown, or a key is wrong.
    """
    if section.kind not in registry:
        allowed = ", ".join(sorted(registry))
        words = f"unknown kind {section.kind}; allowed: {allowed}."
        raise SpecProblems([SpecProblem(words + nearest(section.kind, registry), ("kind",))])
    model = registry[section.kind].Settings
    try:
        return model.model_validate(section.own)
    except ValidationError as error:
        raise SpecProblems(problems_of(error, model, section.own)) from None


def complete(section: Open, registry: Mapping[str, type[Kind]]) -> Open:
    """Return a section with the defaults of its kind filled in.

    Args:
        section: the section.
        registry: classes by kind.

    Raises:
        SpecProblems: the kind is unknown, or a key is wrong.
    """
    settings = settings_of(section, registry).model_dump(mode="json", by_alias=True)
    return type(section).model_validate({"kind": section.kind, **settings})
