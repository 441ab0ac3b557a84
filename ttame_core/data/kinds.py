"""Sections of a spec whose keys depend on their kind: the classes of a registry say which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeVar

from pydantic import ValidationError

from ttame_core import spec
from ttame_core.errors import nearest
from ttame_core.spec.load import SpecProblem, SpecProblems, problems_of

Open = TypeVar("Open", bound=spec.OpenSection)


class Kind(Protocol):
    """A class that a section of a spec can name.

    Attributes:
        Settings: the keys of the section, beside `kind`.
    """

    Settings: ClassVar[type[spec.Section]]


def settings_of(section: spec.OpenSection, registry: Mapping[str, type[Kind]]) -> spec.Section:
    """Return the settings of a section, by the class that its kind names.

    Raises:
        SpecProblems: there is no such kind, or something is wrong with its keys.
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
    """Fill in the defaults of a section's kind; a section that is complete stays as it is.

    Raises:
        SpecProblems: as of `settings_of`.
    """
    settings = settings_of(section, registry).model_dump(mode="json")
    return type(section).model_validate({"kind": section.kind, **settings})
