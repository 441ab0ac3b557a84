"""The base class of sources of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ttame_core import spec
from ttame_core.data.files import shown


@dataclass(frozen=True)
class Entry:
    """One input of a data set.

    Attributes:
        path: the input's name in the lake: its path relative to the source.
        location: file that holds the picture; empty where it is drawn.
        label: class name, or class index as text; None where it is not known.
        split: the split that the source puts the input in; None where the spec's shares decide.
        stamp: text that changes when the content does.
        kind: what a rejected input is: image or folder.
        reason: why the input is rejected; empty where it is not.
    """

    path: str
    location: str
    label: str | None
    split: spec.Split | None
    stamp: str = ""
    kind: str = "image"
    reason: str = ""


def image_entry(
    path: str, location: str, label: str | None, split: spec.Split | None, changed: str
) -> Entry:
    """Make the entry of an image, which is rejected if its name cannot be stored."""
    if shown(path) != path:
        return Entry(shown(path), "", None, split, reason="its name is not UTF-8")
    return Entry(path, location, label, split, changed)


@dataclass(frozen=True)
class Drawn:
    """A picture that a source has drawn.

    Attributes:
        image: the picture, in RGB.
        mask: (H, W) uint8, 0 for background and 1, 2, … for the objects; None where there is none.
    """

    image: Image.Image
    mask: np.ndarray | None


class Source(ABC):
    """A source of pictures, which lists them and opens none.

    The registry holds the subclasses in modules of this package, and those that entry points of the
    group `ttame.sources` name.

    Attributes:
        name: the source's `kind` in a spec.
        drawn_by: names of the settings that change a picture without a change of its entry.
        Settings: the source's keys in a spec.
    """

    name: ClassVar[str]
    drawn_by: ClassVar[tuple[str, ...]] = ()
    Settings: ClassVar[type[spec.Section]]

    def __init__(self, settings: Any) -> None:
        self.settings: Any = settings

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield every input.

        Raises:
            UserError: the source cannot be listed.
        """

    def classes(self) -> tuple[str, ...] | None:
        """Return the names of all classes in label order; None to take them from the labels."""
        return None

    def draw(self, path: str) -> Drawn | None:
        """Draw the picture of an entry; None where the entry's location has the picture."""
        return None
