"""CSV and Parquet files with a row for each image."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import locate
from ttame_core.data.sources.base import Entry, Source
from ttame_core.data.sources.named import NamedImages
from ttame_core.errors import UserError, nearest


class ManifestSettings(spec.Section):
    """The keys of a spec that set it; `split` is used where the file has such a column."""

    path: spec.Location
    root: spec.Place | None = Field(
        None, description="of relative image paths; default: beside the file"
    )
    image_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"


class Manifest(Source):
    """CSV or Parquet with columns of paths, of labels and, where there is one, of splits."""

    name = "manifest"
    settings: ManifestSettings
    Settings = ManifestSettings

    @override
    def entries(self) -> Iterator[Entry]:
        settings = self.settings
        for split, fs, path in locate(settings.path, "manifest"):
            images = NamedImages(settings.root or fs.unstrip_protocol(posixpath.dirname(path)))
            row = 0
            with fs.open(path, "rb") as stream:
                for batch in _record_batches(stream, path, settings):
                    for values in batch.to_pylist():
                        row += 1
                        where = f"{path}, row {row}"
                        image, label = values[settings.image_column], values[settings.label_column]
                        if image is None or label is None:
                            raise UserError(f"{where}: the image or its label is missing")
                        own = values.get(settings.split_column)
                        if own is not None and own not in spec.SPLITS:
                            allowed = ", ".join(spec.SPLITS)
                            raise UserError(f"{where}: unknown split {own!r}; allowed: {allowed}")
                        yield images.entry(str(image), str(label), own or split, where)


def _record_batches(stream: Any, path: str, settings: ManifestSettings) -> Iterator[pa.RecordBatch]:
    wanted = [settings.image_column, settings.label_column]
    try:
        if path.lower().endswith(".parquet"):
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            _check_columns(names, wanted, path)
            chosen = [n for n in (*wanted, settings.split_column) if n in names]
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
