"""The base class of sources of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import numpy as np
from PIL import Image

from ttame_core import spec
from ttame_core.data.decoding import apart
from ttame_core.data.files import LARGEST, read, shown
from ttame_core.data.images import (
    DECODERS,
    HEIF,
    BrokenImage,
    is_image,
    is_other,
    may_be_image,
    stored,
)


@dataclass(frozen=True)
class Entry:
    """One input of a data set.

    Attributes:
        path: the input's name in the lake: its path relative to the source.
        location: file that holds the picture, or where it lies in a file of many pictures, as
            `reading` of its source takes it; empty where it is drawn.
        label: class name, or class index as text; None where it is not known. Several are one
            text, as `labels_of` makes it.
        split: the split that the source puts the input in; None where the spec's shares decide.
        stamp: text that changes when the content does.
        kind: what a rejected input is: image, folder or file.
        reason: why the input is rejected; empty where it is not.
    """

    path: str
    location: str
    label: str | None
    split: spec.Split | None
    stamp: str = ""
    kind: str = "image"
    reason: str = ""


@dataclass(frozen=True)
class File:
    """A file that may be a picture.

    Attributes:
        path: path relative to the source.
        location: location of the entry that is made of it.
        stamp: text that changes when the content does.
        open: function that opens the file for reading.
        reason: why the file is rejected; empty where it is not.
    """

    path: str
    location: str
    stamp: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    reason: str = ""


def file_entry(file: File, label: str | None, split: spec.Split | None) -> Entry:
    """Make the entry of a file, which is rejected if it is no picture or its name not UTF-8.

    A file is opened only where its name says neither that it is a picture nor that it is none.
    """
    path = f"{split}/{file.path}" if split else file.path
    kind, reason = "image", file.reason
    if not reason and not is_image(path):
        kind, reason = _unlike_image(file)
    if shown(path) != path:
        reason = reason or "its name is not UTF-8"
    if reason:
        return Entry(shown(path), shown(file.location), None, split, kind=kind, reason=reason)
    return Entry(path, file.location, label, split, file.stamp)


def _unlike_image(file: File) -> tuple[str, str]:
    """Return what kind of thing a file is, and why it is no picture; empty where it is one."""
    if is_other(file.path):
        return "file", "by its name it is no picture"
    try:
        with file.open() as stream:
            start = stream.read(32)
            if may_be_image(start):
                apart(stored, start + stream.read(LARGEST), file.path)
                return "image", ""
    except BrokenImage as broken:
        return "image" if HEIF.match(start) else "file", broken.reason
    except OSError as error:
        return "file", error.strerror or str(error)
    return "file", f"it is no picture of a known format: {', '.join(DECODERS)}"


@dataclass(frozen=True)
class Drawn:
    """A picture that a source has drawn.

    Attributes:
        image: the picture, in RGB.
        mask: (H, W) uint8, 0 for background and 1, 2, … for the objects; None where there is none.
        names: for a picture with several labels, the label of each object.
    """

    image: Image.Image
    mask: np.ndarray | None
    names: Sequence[str] = ()


class Source(ABC):
    """A source of pictures, which lists them without decoding them.

    The registry holds the subclasses in modules of this package, and those that entry points of the
    group `ttame.sources` name.

    Attributes:
        name: the source's `kind` in a spec.
        drawn_by: names of the settings that change a picture without a change of its entry.
        Settings: the source's keys in a spec.
        remarks: sentences on how the source was understood, once its entries have been listed.
    """

    name: ClassVar[str]
    drawn_by: ClassVar[tuple[str, ...]] = ()
    Settings: ClassVar[type[spec.Section]]

    def __init__(self, settings: Any) -> None:
        self.settings: Any = settings
        self.remarks: list[str] = []

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield every input.

        Raises:
            UserError: the source cannot be listed.
        """

    def classes(self) -> tuple[str, ...] | None:
        """Return the names of all classes in label order; None to take them from the labels."""
        return None

    def reading(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> AbstractContextManager[Callable[[str], bytes]]:
        """Give a function that returns the bytes of a picture at a location.

        The function raises OSError where a picture cannot be read; several threads may call it.

        Args:
            rows: rows of the plan, with location and stamp, of all pictures that will be read.
        """
        return nullcontext(read)

    def draw(self, path: str) -> Drawn | None:
        """Draw the picture of an entry; None where the entry's location has the picture."""
        return None
