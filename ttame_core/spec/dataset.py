"""The sections of a spec about data: where pictures and annotations lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from ttame_core.spec.base import Labels, Name, Section, Seed, Split
from ttame_core.storage import without_credentials


class OpenSection(Section):
    """A section whose keys depend on its `kind`, and are attributes as in any section.

    The kinds and their keys are defined in packages above this one (`ttame_core.data`), so the keys
    are checked, and their defaults filled in, when a spec is opened.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = Field(description="one of the kinds below, or one of a plug-in")

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @property
    def own(self) -> dict[str, Any]:
        """The keys that belong to the section's kind: all but `kind`."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _no_credentials(self) -> Self:
        for text in _texts(self.own):
            without_credentials(text)
        return self


def _texts(value: Any) -> Iterator[str]:
    """Yield every text within lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, Sequence):
        for part in value:
            yield from _texts(part)


class Source(OpenSection):
    """The section of a spec about where pictures come from; kinds: `ttame_core.data.sources`."""


class Annotations(OpenSection):
    """The section of a spec about boxes or masks; kinds: `ttame_core.data.annotations`."""


class Dataset(Section):
    """The section of a spec about the data set."""

    name: Name = Field(description="name in the lake")
    source: Source = Field(description="where the pictures and their labels come from")
    annotations: Annotations | None = Field(
        None, description="boxes or masks of objects; default: none, or those of the source"
    )
    splits: dict[Split, float] = Field(
        default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2},  # type: ignore[arg-type]
        description="shares by which images are divided that the source does not put in a split",
    )
    classes: list[str] | None = Field(
        None, description="names of the classes in the classifiers' order; default: sorted"
    )
    labels: Labels = Field(
        default_factory=dict,
        description="class of the classifiers (name, wnid or number) by class of the data set, "
        "where names do not say it: {kangaroo: wallaby}",
    )
    samples_per_shard: int = Field(1000, ge=1, description="images in a shard, roughly at most")
    max_size: int | None = Field(
        None, ge=16, description="longest side in pixels; larger images are re-encoded"
    )
    seed: Seed = Field(0, description="seed of the images' order and of the splits")

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: list[str] | None) -> list[str] | None:
        twice = [name for name, count in Counter(classes or ()).items() if count > 1]
        if twice:
            raise ValueError(f"two classes are called {twice[0]!r}: give each a name of its own")
        return classes

    @field_validator("splits")
    @classmethod
    def _shares(cls, splits: dict[Split, float]) -> dict[Split, float]:
        if not splits or min(splits.values()) < 0 or abs(sum(splits.values()) - 1) > 1e-6:
            raise ValueError("shares must not be negative and must add up to 1")
        # An image's split follows from its hash and the order of the splits: that must not depend
        # on the order in the YAML file.
        return {name: splits[name] for name in get_args(Split) if name in splits}
