"""Images that are named in a file."""

from __future__ import annotations

import posixpath

from ttame_core import spec
from ttame_core.data.files import locate, stamp
from ttame_core.data.labels import is_negative
from ttame_core.data.sources.base import Entry
from ttame_core.errors import UserError
from ttame_core.storage import reaching, without_credentials


class NamedImages:
    """A maker of entries for images that a file names, by paths relative to a root."""

    def __init__(self, root: str) -> None:
        ((_, self.fs, self.root),) = locate(root, "image root")

    def entry(self, path: str, label: str | None, split: spec.Split | None, where: str) -> Entry:
        """Make the entry of one image.

        Args:
            path: path relative to the root, or an absolute path or URL.
            label: class name, or class index as text; None where it is not known.
            split: split of the image; None where the shares of the spec decide.
            where: file and line that name the image, for an error message.

        Raises:
            UserError: the label is negative.
        """
        if label and is_negative(label):
            raise UserError(f"{where}: the label {label} is negative; classes count from 0")
        absolute = path.startswith("/") or "://" in without_credentials(path)
        if not absolute:
            path = posixpath.normpath(path)  # so that a picture has one name however it is written
        location = path if absolute else posixpath.join(self.root, path)
        if absolute and location.startswith(f"{self.root}/"):
            path = location.removeprefix(f"{self.root}/")
        try:
            with reaching(location, self.fs):
                changed = stamp(self.fs.info(location))
        except (OSError, ValueError):
            return Entry(path, location, None, split, reason="there is no such file")
        return Entry(path, self.fs.unstrip_protocol(location), label, split, changed)
