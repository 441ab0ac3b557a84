"""The rows of a table of pictures, as they are read from Parquet and Arrow files."""

from __future__ import annotations

import posixpath
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.labels import labels_of, text_of
from ttame_core.data.splits import split_named
from ttame_core.errors import UserError

# Rows of a Parquet file, of which a few bytes can stand for a long value in each row.
IMAGES_AT_ONCE, LABELS_AT_ONCE = 16, 1024
NO_LABEL = -1  # in columns of classes of Hugging Face `datasets`


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read.

    Attributes:
        image: name of the column of images.
        label: name of the column of labels; None where images have none.
        names: names of the classes that numbers in the column of labels stand for; None where the
            table does not say.
        split: name of the column of splits; None where there is none.
    """

    image: str
    label: str | None
    names: tuple[str, ...] | None
    split: str | None


class Described(NamedTuple):
    """What a row says of its picture.

    Attributes:
        row: number of the row.
        name: the picture's name; empty where it has none.
        label: its labels, as `labels_of`; None where there are none.
        split: its split; None where the row does not say.
        size: about how many bytes the row has.
        reason: why the row is rejected; empty where it is not.
    """

    row: int
    name: str
    label: str | None
    split: spec.Split | None
    size: int
    reason: str


class Rows(ABC):
    """The rows of one table.

    Attributes:
        form: words for the form of the table, in messages.
        place: path or URL of the table.
        schema: names and types of its columns.
        size: bytes of a row, on average; 0 where the table does not tell.
    """

    form: ClassVar[str] = "Parquet or Arrow"
    place: str
    schema: pa.Schema
    size: int = 0

    @abstractmethod
    def batches(
        self, wanted: Sequence[str], at_once: int, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield consecutive rows, in their order, as the number of the first and a batch.

        Args:
            wanted: names of columns. A name such as `image.path` asks for a field of a column; its
                values are those of `field_of`.
            at_once: about how many rows a batch has, at most.
            rows: sorted numbers of rows; batches without any of them are left out. None for all.

        Raises:
            UserError: the table is damaged.
        """

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn the errors of a damaged table into a sentence."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self.damaged(str(error)) from error

    def damaged(self, reason: str) -> UserError:
        """Return the sentence for a table that a library cannot read."""
        words = " ".join(reason.split())[:200]
        return UserError(
            f"{self.place} cannot be read as {self.form} ({words}): get it again, or leave it out"
        )

    def described(self, columns: Columns) -> Iterator[Described]:
        """Yield what each row says of its picture."""
        kind = self.schema.field(columns.image).type
        path = f"{columns.image}.path"
        named = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
        wanted = [path] * named + [name for name in (columns.label, columns.split) if name]
        for first, batch in self.batches(wanted, LABELS_AT_ONCE):
            images = field_of(batch, path).to_pylist() if named else None
            labels = batch.column(columns.label).to_pylist() if columns.label else None
            splits = batch.column(columns.split).to_pylist() if columns.split else None
            for offset in range(batch.num_rows):
                name, label, split, reason = "", None, None, ""
                try:
                    if images:
                        name = posixpath.basename(text_of(images[offset], "name"))
                    if labels:
                        label = _label(labels[offset], columns.names)
                    if splits:
                        split = split_named(text_of(splits[offset], "split"))
                except ValueError as error:
                    reason = str(error)
                yield Described(first + offset, name, label, split, self.size, reason)

    def images(self, image: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield number and image of some rows, which must be sorted, without those of no image."""
        for first, batch in self.batches([image], IMAGES_AT_ONCE, rows):
            column = batch.column(image)
            begin, end = bisect_left(rows, first), bisect_left(rows, first + batch.num_rows)
            for row in rows[begin:end]:
                value = column[row - first].as_py()
                data = value.get("bytes") if isinstance(value, dict) else value
                if isinstance(data, bytes):
                    yield row, data


class ParquetRows(Rows):
    """The rows of a Parquet file."""

    def __init__(self, stream: IO[bytes], place: str) -> None:
        self.place = place
        with self.told():
            self._file = pq.ParquetFile(stream)
            self.schema = self._file.schema_arrow
            self.size = stream.seek(0, 2) // max(1, self._file.metadata.num_rows)

    @override
    def batches(
        self, wanted: Sequence[str], at_once: int, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        first = 0
        with self.told():
            for group in range(self._file.num_row_groups):
                count = self._file.metadata.row_group(group).num_rows
                if _any(rows, first, count):
                    begin = first
                    for batch in self._file.iter_batches(
                        at_once, row_groups=[group], columns=list(wanted)
                    ):
                        yield begin, batch
                        begin += batch.num_rows
                first += count


class ArrowRows(Rows):
    """The rows of an Arrow file or stream, which can be read once."""

    def __init__(self, stream: IO[bytes], place: str, is_file: bool) -> None:
        self.place = place
        with self.told():
            self.size = 0
            if is_file:
                file = pa.ipc.open_file(stream)
                self.schema = file.schema
                self._batches = (file.get_batch(n) for n in range(file.num_record_batches))
            else:
                batches = pa.ipc.open_stream(stream)
                self.schema, self._batches = batches.schema, iter(batches)

    @override
    def batches(
        self, wanted: Sequence[str], at_once: int, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        first = 0
        names = list(dict.fromkeys(name.removesuffix(".path") for name in wanted))
        with self.told():
            for batch in self._batches:
                if _any(rows, first, batch.num_rows):
                    self.size = batch.nbytes // max(1, batch.num_rows)
                    chosen = batch.select(names)
                    chosen.validate(full=True)
                    yield first, chosen
                first += batch.num_rows


def open_stream(stream: IO[bytes], place: str) -> Rows:
    """Read the rows of a Parquet or an Arrow file, by what the file begins with.

    Raises:
        UserError: the file is neither, or damaged.
    """
    start = stream.read(6)
    stream.seek(0)
    if start[:4] == b"PAR1":
        return ParquetRows(stream, place)
    return ArrowRows(stream, place, is_file=start == b"ARROW1")


def field_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column of a batch, or a field of one, such as `image.path`."""
    if name in batch.schema.names:
        return batch.column(name)
    column, _, field = name.rpartition(".")
    return batch.column(column).field(field)


def _any(rows: Sequence[int] | None, first: int, count: int) -> bool:
    return rows is None or bisect_left(rows, first) < bisect_left(rows, first + count)


def _label(value: Any, names: tuple[str, ...] | None) -> str | None:
    """Return the labels that a value stands for, as `labels_of`; None where there is none."""
    if names is None:
        return labels_of(value)
    if isinstance(value, list):
        return labels_of([_label(one, names) for one in value])
    if value is None or value == NO_LABEL:
        return None
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    if value in names:
        return str(value)
    raise ValueError(f"its label {str(value)[:80]} is none of the file's {len(names)} classes")
