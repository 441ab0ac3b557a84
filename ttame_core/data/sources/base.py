"""What every source of pictures can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ttame_core import spec


@dataclass(frozen=True)
class Entry:
    """One input of a data set.

    Attributes:
        path: its name in the lake, relative to its source.
        location: where it is read; empty where it is drawn.
        label: class name, or class index as text; None where it is not known.
        split: None where the shares of the spec decide.
        stamp: changes when the content does.
        kind: of thing that a rejected input is.
        reason: why the input is not taken; empty where it is.
    """

    path: str
    location: str
    label: str | None
    split: spec.Split | None
    stamp: str = ""
    kind: str = "image"
    reason: str = ""


@dataclass(frozen=True)
class Drawn:
    """A picture that is drawn.

    Attributes:
        image: RGB.
        mask: (H, W) uint8, 0 for background and 1, 2, … for the objects; None: there is none.
    """

    image: Image.Image
    mask: np.ndarray | None


class Source(ABC):
    """Where pictures come from; nothing is opened but the lists themselves.

    A subclass in a module of this package, or in an entry point of the group `ttame.sources`, is in
    the registry.

    Attributes:
        name: its `kind` in a spec.
        drawn_by: the settings that change a picture without a change of its entry.
        Settings: its keys in a spec.
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
        """Return the names of all classes in label order; None: they follow from the labels."""
        return None

    def draw(self, path: str) -> Drawn | None:
        """Draw the picture of an entry; None: it is a file, to be read from its location."""
        return None
