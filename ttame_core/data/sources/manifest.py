"""CSV and Parquet files with a row for each image."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import locate
from ttame_core.data.labels import LONGEST, labels_of, text_of
from ttame_core.data.sources.base import Entry, Source
from ttame_core.data.sources.named import NamedImages
from ttame_core.data.splits import split_named
from ttame_core.errors import UserError, nearest

DELIMITERS = ",;\t"  # between columns: the one that the first line has most of
ROWS_AT_ONCE = 1024  # of a Parquet file: a few bytes of one can stand for a long text in each row


class ManifestSettings(spec.Section):
    """The keys of a spec for manifests; the column of splits is used where the file has it."""

    path: spec.Location = Field(description="the file, or one for each split")
    root: spec.Place | None = Field(
        None, description="folder that image paths are relative to; default: the file's"
    )
    image_column: str = Field("path", description="column of the images' paths")
    label_column: str | None = Field(
        "label", description="column of labels; null: images have no labels, or they are ignored"
    )
    split_column: str = Field(
        "split",
        description="column of the splits, if there is one: train, val (valid, dev) or test",
    )
    label_separator: str | None = Field(
        ";", description="text between the labels of an image that has several; null: none has"
    )


class Manifest(Source):
    """A source from CSV or Parquet with a column of paths, and perhaps of labels and of splits.

    All columns are read as text, so that `001` stays `001`.
    """

    name = "manifest"
    settings: ManifestSettings
    Settings = ManifestSettings

    @override
    def entries(self) -> Iterator[Entry]:
        settings = self.settings
        for split, fs, path in locate(settings.path, "manifest"):
            images = NamedImages(settings.root or fs.unstrip_protocol(posixpath.dirname(path)))
            parquet = path.lower().endswith(".parquet")
            with fs.open(path, "rb") as stream:
                rows = (_parquet_rows if parquet else _csv_rows)(stream, path, settings)
                for number, row in enumerate(rows, start=1):
                    if number == 1:
                        labels = _label_column(list(row), path, settings)
                    where = f"{path}, row {number}"
                    image = _text(row[settings.image_column], "image", where)
                    if not image:
                        raise UserError(f"{where}: the image is missing")
                    label = None
                    if labels:
                        with _told(where, "label"):
                            label = labels_of(row[labels], settings.label_separator)
                    with _told(where, "split"):
                        own = split_named(text_of(row.get(settings.split_column), "split"))
                    yield images.entry(image, label, own or split, where)


def _label_column(columns: list[str], path: str, settings: ManifestSettings) -> str | None:
    """Return the name of a file's column of labels; None where there are no labels.

    Raises:
        UserError: there is no column of images, or the column of labels may have another name.
    """
    wanted = [settings.image_column]
    nothing_else = set(columns) <= {settings.image_column, settings.split_column}
    if settings.label_column is not None and not nothing_else:
        wanted.append(settings.label_column)
    for column in wanted:
        if column not in columns:
            raise UserError(
                f"the manifest {path} has no column {column!r}; it has {', '.join(columns)}: set "
                "`image_column` and `label_column` (null where the images have no labels), or read "
                "it by `kind: table` where rows hold the images themselves."
                + nearest(column, columns)
            )
    return settings.label_column if settings.label_column in wanted else None


def _columns(settings: ManifestSettings) -> list[str]:
    """Return the names of the columns that are read where they are there."""
    named = (settings.image_column, settings.label_column, settings.split_column)
    return [name for name in named if name is not None]


def _csv_rows(stream: Any, path: str, settings: ManifestSettings) -> Iterator[dict[str, Any]]:
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    first = text.readline(LONGEST)
    text.seek(0)
    rows = csv.DictReader(text, strict=True, delimiter=max(DELIMITERS, key=first.count))
    number = 1
    try:
        names = [_text(name, "name of a column", path) for name in rows.fieldnames or ()]
        for name in _columns(settings):
            if names.count(name) > 1:
                raise csv.Error(f"two columns are called {name!r}: rename one")
        for row in rows:
            if None in row or None in row.values():
                columns = len(rows.fieldnames or ())
                raise csv.Error(f"it does not have the {columns} columns of the first line")
            yield row
            number += 1
    except csv.Error as error:
        raise UserError(f"{path}, row {number}: cannot be read: {error}") from error


def _parquet_rows(stream: Any, path: str, settings: ManifestSettings) -> Iterator[dict[str, Any]]:
    chosen = _columns(settings)
    try:
        file = pq.ParquetFile(stream)
        names = file.schema_arrow.names
        others = dict.fromkeys(names)  # values are not needed, only the names
        read = [name for name in names if name in chosen]
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=read):
            for row in batch.to_pylist():
                yield others | row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"the manifest {path} cannot be read: {error}") from error


@contextmanager
def _told(where: str, what: str) -> Iterator[None]:
    """Turn the error of a cell into a sentence with file and row."""
    try:
        yield
    except ValueError as error:
        hint = "; where rows hold the images themselves, `kind: table` reads them"
        raise UserError(f"{where}: {error}{hint * (what == 'image')}") from error


def _text(value: Any, what: str, where: str) -> str:
    """Return a cell as text; raises UserError where it is neither a text nor a whole number."""
    with _told(where, what):
        text = text_of(value, what)
    return text if what == "image" else text.strip()
