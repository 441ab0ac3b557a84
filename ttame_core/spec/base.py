"""The base class and the types of all sections of a spec: names, places, splits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ttame_core.errors import nearest
from ttame_core.storage import without_credentials


def _texts(mapping: Any) -> Any:
    """Return a mapping whose keys and values are texts, where they were whole numbers."""
    if not isinstance(mapping, dict):
        return mapping
    return {
        str(key) if type(key) is int else key: str(value) if type(value) is int else value
        for key, value in mapping.items()
    }


Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# Names become folder names of the lake, on every file system and object store.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=120)]
Labels = Annotated[dict[str, str], BeforeValidator(_texts)]  # YAML reads 7 as a number
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what every generator of random numbers takes
Place = Annotated[str, AfterValidator(without_credentials)]  # a path or URL
Location = Place | dict[Split, Place]


def is_folder(model: str) -> bool:
    """Say whether the name of a model, which has no prefix of a library, is that of a folder."""
    return re.match(r"[~./]|\w+/", model) is not None


class Section(BaseModel):
    """A part of a spec, which cannot be changed and refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def message_of(problem: Mapping[str, Any]) -> str:
    """Return the message of one entry of pydantic's `errors()`, in words that readers know."""
    if problem["type"] == "missing":
        return "this key is required"
    if problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == NAME:
        return "a name begins with a letter or digit and has only letters, digits and . _ + -"
    words: str = problem["msg"]
    return words.removeprefix("Value error, ")


def problem_of(error: ValidationError, allowed: Iterable[str], owner: str = "") -> str:
    """Write the first error of a section as one sentence.

    Args:
        error: the error that validating the section raised.
        allowed: names of the section's keys.
        owner: name of the method or family that the section belongs to; "" for none.
    """
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        names = sorted(allowed)
        subject = f"{owner} has" if owner else "there is"
        return f"{subject} no setting {key}; allowed: {', '.join(names)}." + nearest(key, names)
    given = "" if isinstance(first["input"], dict | list) else f" (got {first['input']!r})"
    place = f"{key} of {owner}" if key and owner else key or owner
    return f"{place}: {message_of(first)}{given}" if place else message_of(first)


def distinct(kind: str, chosen: list[Any], names: list[str]) -> list[Any]:
    """Return `chosen` as it is, after checking that no two of it have the same name.

    Args:
        kind: what is chosen, as a plural noun.
        chosen: entries of a list in a spec.
        names: the name of each entry.

    Raises:
        ValueError: two entries have the same name.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two {kind} are called {twice[0]}: give one another `name`")
    return chosen
