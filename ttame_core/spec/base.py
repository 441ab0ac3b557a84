"""The base class and the types of all sections of a spec: names, places, splits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ttame_core.errors import nearest
from ttame_core.storage import without_credentials


def _texts(mapping: Any) -> Any:
    """Return a mapping with its numbers as texts."""
    if not isinstance(mapping, dict):
        return mapping
    return {
        str(key) if type(key) is int else key: str(value) if type(value) is int else value
        for key, value in mapping.items()
    }


Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# Names become folder names of the lake, on every file system and object store.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=120)]
Labels = Annotated[dict[str, str], BeforeValidator(_texts)]  # YAML reads 7 as a number
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what every generator of random numbers takes
Place = Annotated[str, AfterValidator(without_credentials)]  # a path or URL
Location = Place | dict[Split, Place]


class Section(BaseModel):
    """A part of a spec, which cannot be changed and refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def words_of(error: ValidationError) -> str:
    """Return the first message of an error, without the words that pydantic puts before it."""
    return error.errors()[0]["msg"].removeprefix("Value error, ")


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
    return f"{place}: {words_of(error)}{given}" if place else words_of(error)


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
