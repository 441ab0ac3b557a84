"""The embedded data set, whose pictures are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from PIL import Image
from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.labels import SEVERAL
from ttame_core.data.shapes import CLASSES, draw_labels, draw_sample
from ttame_core.data.sources.base import Drawn, Entry, Source


class ShapesSettings(spec.Section):
    """The keys of a spec for the drawn data set."""

    train: int = Field(3000, ge=0, description="number of pictures for training")
    val: int = Field(300, ge=0, description="number of pictures for validation")
    test: int = Field(600, ge=0, description="number of pictures to explain")
    size: int = Field(96, ge=32, le=2048, description="side of the square pictures in pixels")
    seed: spec.Seed = Field(0, description="seed of what is drawn")
    labels: int = Field(
        1, ge=1, le=4, description="classes in each picture, of which each has an object of its own"
    )


class Shapes(Source):
    """A source of drawn pictures, with exact masks of their objects."""

    name = "shapes"
    drawn_by: ClassVar[tuple[str, ...]] = ("size", "seed")
    settings: ShapesSettings
    Settings = ShapesSettings

    @override
    def entries(self) -> Iterator[Entry]:
        of_all = self.settings.seed, self.settings.size, self.settings.labels
        for split in spec.SPLITS:
            for index in range(getattr(self.settings, split)):
                names = [CLASSES[label] for label in draw_labels(split, index, *of_all)]
                yield Entry(f"{split}/{index:06d}", "", SEVERAL.join(names), split)

    @override
    def classes(self) -> tuple[str, ...]:
        return CLASSES

    @override
    def draw(self, path: str) -> Drawn:
        split, _, index = path.partition("/")
        of_all = self.settings.seed, self.settings.size, self.settings.labels
        sample = draw_sample(split, int(index), *of_all)
        names = [CLASSES[label] for label in sample.labels] if self.settings.labels > 1 else []
        return Drawn(Image.fromarray(sample.image), sample.mask, names)
