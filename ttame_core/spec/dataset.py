"""The sections of a spec about data: where pictures and annotations lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from ttame_core.spec.base import Name, Section, Seed, Split
from ttame_core.storage import without_credentials


class OpenSection(Section):
    """A section whose keys depend on its kind; they are attributes, as everywhere.

    Which kinds there are and which keys they take is known above: what a spec says is checked and
    completed when it is opened.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @property
    def own(self) -> dict[str, Any]:
        """The keys of its kind."""
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
    """Where pictures come from: the kinds of `ttame_core.data.sources`."""


class Annotations(OpenSection):
    """Where boxes or masks come from: the kinds of `ttame_core.data.annotations`."""


class Dataset(Section):
    """The section of a spec about the data set."""

    name: Name
    source: Source
    annotations: Annotations | None = None
    splits: dict[Split, float] = Field(
        default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2},  # type: ignore[arg-type]
        description="shares of the images that the source itself puts in no split",
    )
    classes: list[str] | None = Field(
        None, description="class names in the classifiers' order; default: sorted"
    )
    samples_per_shard: int = Field(1000, ge=1, description="at most about this many")
    max_size: int | None = Field(
        None, ge=16, description="longest side in pixels; larger images are re-encoded"
    )
    seed: Seed = Field(0, description="of the order of the samples and of the splits")

    @field_validator("splits")
    @classmethod
    def _shares(cls, splits: dict[Split, float]) -> dict[Split, float]:
        if not splits or min(splits.values()) < 0 or abs(sum(splits.values()) - 1) > 1e-6:
            raise ValueError("shares must not be negative and must add up to 1")
        # An image's split follows from where its hash falls: the order of the YAML says nothing.
        return {name: splits[name] for name in get_args(Split) if name in splits}
