"""Tables whose rows hold pictures: Parquet, Arrow (as Hugging Face `datasets` writes) and Lance."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa
from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import LARGEST, listing, locate, shown, stamp, walk
from ttame_core.data.sources.base import Entry, Source
from ttame_core.data.sources.containers import by_container, inside, opened
from ttame_core.data.sources.lance import LanceRows, is_lance, newest_versions
from ttame_core.data.sources.rows import Columns, Rows, open_stream
from ttame_core.data.splits import BESIDE, split_files
from ttame_core.errors import UserError, nearest

AUTO = "auto"
# Names of columns, the first of which is taken where nothing else tells.
USUAL = {"image": ("image",), "label": ("label", "labels", "class", "classes", "cls", "target")}
SUFFIXES = (".parquet", ".arrow", ".feather")


class TableSettings(spec.Section):
    """The keys of a spec for tables; `path` is a file, or a folder of files."""

    path: spec.Location = Field(description="a file or a folder of files, or one for each split")
    image_column: str | None = Field(
        None, description="column of the images; default: the only one that holds images"
    )
    label_column: str | None = Field(
        AUTO,
        description="column of labels; auto: the one whose classes the file names, or `label`; "
        "null: images have no labels, or they are ignored",
    )
    split_column: str | None = Field(
        "split",
        description="column of the splits, if there is one; null: images are divided by files, or "
        "by shares",
    )


class Table(Source):
    """A source of the images in rows of Parquet, Arrow and Lance, with the classes that they name.

    A folder may be one that Hugging Face `datasets` has saved or downloaded, or a table of Lance,
    of which the newest version is read.
    """

    name = "table"
    settings: TableSettings
    Settings = TableSettings

    def __init__(self, settings: TableSettings) -> None:
        super().__init__(settings)
        self._names: tuple[str, ...] | None = None
        self._of = ""

    @override
    def classes(self) -> tuple[str, ...] | None:
        return self._names

    @override
    def entries(self) -> Iterator[Entry]:
        files: dict[str, tuple[spec.Split | None, Any, str]] = {}
        for split, fs, root in locate(self.settings.path, "table"):
            for name, path in _files(fs, root):
                files[f"{split}/{name}" if split else name] = split, fs, path
        splits = split_files(files) if isinstance(self.settings.path, str) else {}
        if splits:
            self.remarks.append(f"the names of the files in {self.settings.path} tell their splits")
        labels, own_splits = set(), set()
        for name, (split, fs, path) in files.items():
            if splits and name not in splits:
                yield Entry(shown(name), "", None, None, kind="file", reason=BESIDE)
                continue
            place = fs.unstrip_protocol(path)
            with _opened_rows(place) as table:
                columns = _columns(table, _features(table.schema, fs, path), self)
                labels.add(columns.label)
                own_splits.add(columns.split)
                self._check_names(columns, table.place)
                stamped = stamp(fs.info(path))
                for row in table.described(columns):
                    entry = shown("/".join(filter(None, (name, f"{row.row:06d}", row.name))))
                    own = row.split or splits.get(name, split)
                    if row.reason:
                        yield Entry(entry, "", None, own, reason=row.reason)
                    else:
                        where, changed = inside(place, row.row), f"{row.size}/{stamped}"
                        yield Entry(entry, where, row.label, own, changed)
        for column in filter(None, own_splits):
            self.remarks.append(f"the column `{column}` of {self.settings.path} tells its splits")
        said = " and ".join(f"`{label}`" for label in sorted(filter(None, labels)))
        self.remarks.append(
            f"the labels of {self.settings.path} are those of the column {said}"
            if said
            else f"the images of {self.settings.path} have no labels: where a column has them, "
            "name it as `source.label_column`"
        )

    def _check_names(self, columns: Columns, place: str) -> None:
        """Remember the classes that a file names, which must be those of the files before."""
        if not self._of:
            self._names, self._of = columns.names, place
        elif columns.names != self._names:
            raise UserError(
                f"{self._of} and {place} do not name the same classes in the same order, so that "
                "their numbers mean different things: give them as data sets of their own"
            )

    @override
    @contextmanager
    def reading(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Callable[[str], bytes]]:
        """Copy the images into a file of their own, since they can only be read in their order."""
        with TemporaryFile() as scratch:
            copied: dict[str, tuple[int, int]] = {}
            for place, numbers in by_container(rows).items():
                with _opened_rows(place) as table:
                    image = _columns(table, {}, self).image
                    for row, data in table.images(image, sorted(row for (row,) in numbers)):
                        copied[inside(place, row)] = scratch.tell(), len(data)
                        scratch.write(data)
            scratch.flush()

            def read(location: str) -> bytes:
                if location not in copied:
                    raise OSError("its row holds no image")
                position, size = copied[location]
                if size > LARGEST:
                    raise OSError(f"it is larger than {LARGEST // 2**20} MiB")
                return os.pread(scratch.fileno(), size, position)

            yield read


def _files(fs: Any, root: str) -> Iterator[tuple[str, str]]:
    """Yield name and path of each file of a table: of the file itself, or of those in a folder.

    The file of a table of Lance is that of its newest version.

    Raises:
        UserError: there is none, or it is of a kind that is not read.
    """
    if not fs.isdir(root):
        yield posixpath.basename(root), root
        return
    everything = [name for name, *_ in walk(fs, root)]
    tables, others = newest_versions(posixpath.basename(root), everything)
    for table, version in tables.items():
        yield table or posixpath.basename(root), posixpath.join(root, version)
    names = [name for name in others if name.lower().endswith(SUFFIXES)]
    saved: dict[str, set[str] | None] = {}
    for name in names:
        folder = posixpath.dirname(posixpath.join(root, name))
        if folder not in saved:
            saved[folder] = _saved(fs, folder)
    some = bool(tables)
    for name in names:
        path = posixpath.join(root, name)
        files, file = saved[posixpath.dirname(path)], posixpath.basename(name)
        # What `datasets` computes and stores beside its data begins with `cache-`.
        if file in files if files is not None else not file.startswith("cache-"):
            some = True
            yield name, path
    if not some:
        raise UserError(f"{root} holds no tables of Parquet, Arrow or Lance: correct `source.path`")


def _saved(fs: Any, folder: str) -> set[str] | None:
    """Return the names of the files that a saved data set consists of; None where it is none."""
    if "state.json" not in listing(fs, folder)[0]:
        return None
    state = _json(fs, posixpath.join(folder, "state.json"))
    if state.get("_indices_data_files"):
        raise UserError(
            f"the data set in {folder} is a selection of its rows: call `flatten_indices()` and "
            "save it again"
        )
    files = state.get("_data_files")
    if not isinstance(files, list):
        return None
    return {str(file.get("filename")) for file in files if isinstance(file, dict)}


@contextmanager
def _opened_rows(place: str) -> Iterator[Rows]:
    """Open the rows of a table for reading.

    Args:
        place: path or URL of the file.
    """
    if is_lance(place):
        yield LanceRows(place)
        return
    with opened(place) as stream:
        yield open_stream(stream, place)


def _json(fs: Any, path: str) -> dict[str, Any]:
    with opened(fs.unstrip_protocol(path)) as stream:
        try:
            content = json.load(stream)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def holds_images(path: str) -> bool:
    """Say whether a Parquet file has a column of images, and not of their paths."""
    with _opened_rows(path) as table:
        return any(_holds_images(column.type) for column in table.schema)


def _features(schema: pa.Schema, fs: Any, path: str) -> dict[str, Any]:
    """Return what Hugging Face `datasets` says of a file's columns, by name; empty for nothing."""
    told: Any = None
    text = (schema.metadata or {}).get(b"huggingface")
    if text:
        try:
            told = json.loads(text)["info"]["features"]
        except (ValueError, KeyError, TypeError, RecursionError):
            told = None
    beside = posixpath.join(posixpath.dirname(path), "dataset_info.json")
    if not told and fs.exists(beside):
        told = _json(fs, beside).get("features")
    if not isinstance(told, dict):
        return {}
    return {name: about for name, about in told.items() if isinstance(about, dict | list)}


def _columns(table: Rows, features: Mapping[str, Any], source: Table) -> Columns:
    """Find the columns of images and of labels, and the names of the classes.

    Raises:
        UserError: there is no such column, or there are several.
    """
    settings, schema, place = source.settings, table.schema, table.place
    held = [name for name in schema.names if _holds_images(schema.field(name).type)]
    image = _chosen(settings.image_column, held, schema, place, "image")
    if image is None:
        raise UserError(
            f"{place} has no column of images in bytes; it has {', '.join(schema.names)}: where "
            "these are paths, give it as `kind: manifest`"
        )
    if image not in held:
        raise UserError(
            f"the column {image} of {place} holds no images in bytes but {schema.field(image).type}"
        )
    split = settings.split_column
    if split not in schema.names:
        split = None
    if settings.label_column is None:
        return Columns(image, None, None, split)
    own = None if settings.label_column == AUTO else settings.label_column
    features = {name: _of_each(feature) for name, feature in features.items()}
    classes = [name for name in features if features[name].get("_type") == "ClassLabel"]
    known = [name for name in classes if name in schema.names] or [
        name for name in USUAL["label"] if name in schema.names
    ]
    label = _chosen(own, known, schema, place, "label")
    return Columns(image, label, _names(features.get(label or "", {}), place), split)


def _of_each(feature: Any) -> dict[str, Any]:
    """Return the feature of the values in a list; of a value that is none, its own."""
    if isinstance(feature, list):  # as older versions of `datasets` write it
        return _of_each(feature[0]) if feature else {}
    inner = feature.get("feature") if isinstance(feature, dict) else None
    return _of_each(inner) if inner else feature if isinstance(feature, dict) else {}


def _chosen(
    named: str | None, candidates: Sequence[str], schema: pa.Schema, place: str, what: str
) -> str | None:
    """Return the column that a spec names, or the only candidate, or that of a usual name."""
    if named is not None:
        if named not in schema.names:
            raise UserError(
                f"{place} has no column {named!r}; it has {', '.join(schema.names)}."
                + nearest(named, schema.names)
            )
        return named
    columns = [name for name in USUAL[what] if name in candidates][:1] or candidates
    if len(columns) > 1:
        raise UserError(
            f"{place} has several columns of {what}s ({', '.join(columns)}): name one as "
            f"`source.{what}_column`"
        )
    return columns[0] if columns else None


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _names(feature: Mapping[str, Any], place: str) -> tuple[str, ...] | None:
    if feature.get("_type") != "ClassLabel" or not feature.get("names"):
        return None
    names = feature["names"]
    whole = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not whole or len(set(names)) < len(names):
        raise UserError(f"the names of the classes in {place} are not texts that all differ")
    return tuple(names)
