"""Where pictures come from: folders, lists, manifests, and the drawn data set.

Each source gives a stream of entries; nothing is opened but the lists themselves.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ttame_core import spec
from ttame_core.data.images import is_image
from ttame_core.errors import UserError, nearest
from ttame_core.storage import file_system, reaching, without_credentials


@dataclass(frozen=True)
class Entry:
    """One input. path: its name in the lake, relative to its source. location: where it is read.

    label: class name, or class index as text; None with a reason why the input is not taken.
    stamp: changes when the content does.
    """

    path: str
    location: str
    label: str | None
    split: spec.Split | None
    stamp: str = ""
    kind: str = "image"
    reason: str = ""


def list_entries(dataset: spec.Dataset) -> Iterator[Entry]:
    """All inputs of a data set's source. Raises UserError for one that cannot be listed."""
    return _LISTERS[dataset.source.kind](dataset.source)


def locate(location: spec.Location, what: str) -> list[tuple[spec.Split | None, Any, str]]:
    """(split, file system, path) of a source's places; split None where the source has but one."""
    places = location.items() if isinstance(location, dict) else [(None, location)]
    found = []
    for split, place in places:
        try:
            fs, path = file_system(place)
            with reaching(place, fs):
                exists = fs.exists(path)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the {what} {place}: {error}") from error
        if not exists:
            raise UserError(f"the {what} {place} does not exist: correct its `path` in the spec")
        found.append((split, fs, path.rstrip("/")))
    return found


def walk(fs: Any, root: str) -> Iterator[tuple[str, str, str]]:
    """(path relative to root, location, stamp) of every file, sorted; hidden ones left out."""
    for folder, folders, files in fs.walk(root, detail=True):
        for name in [n for n in folders if n.startswith(".")]:
            del folders[name]
        for name, info in sorted(files.items()):
            if not name.startswith("."):
                location = posixpath.join(folder, name)
                yield posixpath.relpath(location, root), fs.unstrip_protocol(location), stamp(info)


def shown(path: str) -> str:
    """A path whose bytes are no UTF-8 with those written as \\x…; any other as it is."""
    return path.encode("utf-8", "backslashreplace").decode()


def stamp(info: dict[str, Any]) -> str:
    """What tells one content of a file from another, without reading it."""
    when = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return f"{info.get('size')}/{when}"


def read(location: str) -> bytes:
    """The bytes of a file. Raises OSError, and StoreAway where a store does not answer."""
    fs, path = file_system(location)
    with reaching(location, fs), fs.open(path, "rb") as stream:
        return stream.read()


def _shapes(source: spec.ShapesSource) -> Iterator[Entry]:
    from ttame_core.data.shapes import CLASSES, draw_label

    for split in spec.SPLITS:
        for index in range(getattr(source, split)):
            label = CLASSES[draw_label(split, index, source.seed, source.size)]
            yield Entry(f"{split}/{index:06d}", "", label, split)


def _folder(source: spec.FolderSource) -> Iterator[Entry]:
    for split, fs, root in locate(source.path, "image folder"):
        if not fs.isdir(root):
            raise UserError(f"{root} is not a folder: `source.path` must hold a folder per class")
        prefix = f"{split}/" if split else ""
        filled = set()
        for path, location, changed in walk(fs, root):
            if not is_image(path):
                continue
            label, below, _ = path.partition("/")
            entry = Entry(prefix + path, location, label, split, changed)
            if not below:
                entry = Entry(entry.path, location, None, split, reason="lies in no class folder")
            if shown(path) != path:
                entry = Entry(shown(entry.path), "", None, split, reason="its name is not UTF-8")
                label = shown(label)
            filled.add(label)
            yield entry
        for info in fs.ls(root, detail=True):
            place = shown(info["name"].rstrip("/"))
            name = posixpath.basename(place)
            if info["type"] == "directory" and name not in filled and not name.startswith("."):
                reason = "class folder without images"
                yield Entry(prefix + name, place, name, split, kind="folder", reason=reason)


def _list(source: spec.ListSource) -> Iterator[Entry]:
    images = _Images(source.root)
    for split, fs, path in locate(source.path, "list"):
        with fs.open(path, "r", encoding="utf-8") as lines:
            for number, line in enumerate(_text(lines, path), start=1):
                if not line.strip():
                    continue
                try:
                    image, label = line.strip().rsplit(maxsplit=1)
                except ValueError as error:
                    raise UserError(
                        f"{path}, line {number}: {line.strip()!r} is not `path label`"
                    ) from error
                yield images.entry(image, label, split, f"{path}, line {number}")


def _text(lines: Any, path: str) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise UserError(f"the list {path} is not UTF-8 text: {error}") from error


def _manifest(source: spec.ManifestSource) -> Iterator[Entry]:
    for split, fs, path in locate(source.path, "manifest"):
        images = _Images(source.root or fs.unstrip_protocol(posixpath.dirname(path)))
        row = 0
        with fs.open(path, "rb") as stream:
            for batch in _record_batches(stream, path, source):
                for values in batch.to_pylist():
                    row += 1
                    where = f"{path}, row {row}"
                    image, label = values[source.image_column], values[source.label_column]
                    if image is None or label is None:
                        raise UserError(f"{where}: the image or its label is missing")
                    own = values.get(source.split_column)
                    if own is not None and own not in spec.SPLITS:
                        allowed = ", ".join(spec.SPLITS)
                        raise UserError(f"{where}: unknown split {own!r}; allowed: {allowed}")
                    yield images.entry(str(image), str(label), own or split, where)


def _record_batches(
    stream: Any, path: str, source: spec.ManifestSource
) -> Iterator[pa.RecordBatch]:
    wanted = [source.image_column, source.label_column]
    try:
        if path.lower().endswith(".parquet"):
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            _check_columns(names, wanted, path)
            chosen = [n for n in (*wanted, source.split_column) if n in names]
            yield from file.iter_batches(columns=chosen)
        else:
            reader = pa.csv.open_csv(stream)
            _check_columns(reader.schema.names, wanted, path)
            yield from reader
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"the manifest {path} cannot be read: {error}") from error


def _check_columns(names: list[str], wanted: list[str], path: str) -> None:
    for column in wanted:
        if column not in names:
            raise UserError(
                f"the manifest {path} has no column {column!r}; it has {', '.join(names)}: set "
                "`image_column` and `label_column`." + nearest(column, names)
            )


class _Images:
    """Images that a list names, relative to a root."""

    def __init__(self, root: str) -> None:
        ((_, self.fs, self.root),) = locate(root, "image root")

    def entry(self, path: str, label: str, split: spec.Split | None, where: str) -> Entry:
        if label.startswith("-") and label[1:].isdigit():
            raise UserError(f"{where}: the label {label} is negative; classes count from 0")
        absolute = path.startswith("/") or "://" in without_credentials(path)
        location = path if absolute else posixpath.join(self.root, path)
        if absolute and location.startswith(f"{self.root}/"):
            path = location.removeprefix(f"{self.root}/")
        try:
            with reaching(location, self.fs):
                changed = stamp(self.fs.info(location))
        except (OSError, ValueError):
            return Entry(path, location, None, split, reason="there is no such file")
        return Entry(path, self.fs.unstrip_protocol(location), label, split, changed)


_LISTERS: dict[str, Callable[[Any], Iterator[Entry]]] = {
    "shapes": _shapes,
    "folder": _folder,
    "list": _list,
    "manifest": _manifest,
}
