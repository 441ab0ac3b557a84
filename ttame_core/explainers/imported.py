"""Maps that someone else made, which are found by the samples' keys."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor
from typing_extensions import override

from ttame_core import spec
from ttame_core.backbones import file_hash
from ttame_core.errors import UserError
from ttame_core.explainers.base import Explainer, ForwardPass, bounded
from ttame_core.lake.map_values import column_of, restore

ABOUT = ("key", "height", "width")  # columns beside that of the maps
LARGEST = 2**22  # values of a map
Size = tuple[int, int]  # height, width
Found = dict[tuple[str, int | None], np.ndarray]  # maps by key and target, None for any target


class Imported(Explainer):
    """Maps that others made, from a Parquet file or a folder of .npy files.

    A Parquet file has a row for each map, with columns key, map (list of numbers, row by row),
    height and width, and perhaps target; without targets, a map serves for any class. A lake's own
    files of maps are such files. A folder has a file `<key>.npy` of (h, w) numbers for each map.
    The view `samples` has the keys.

    Maps cover the classifier's view, resized and cropped, and are all of one size; maps of more
    than 224 pixels a side are averaged down. Samples without a map are left out.

    Memory holds one batch's maps. A Parquet file is unpacked once to float32 in the temporary
    folder (12 GB for a million maps of 56×56), where single maps can be read.
    """

    name = "imported"
    version = 2
    may_lack_maps = True
    explains_again = False

    class Settings(spec.Section):
        """The explainer's keys in a spec."""

        path: str

    @override
    def prepare(self) -> None:
        path = self.settings.path
        self.source: _Source = _Folder(path) if _place(path).is_dir() else _Parquet(path)

    @classmethod
    def identity(cls, settings: dict[str, Any]) -> Any:
        """Return the hash of the file; for a folder, of its files' names, sizes and times."""
        path = _place(settings["path"])
        return _folder_stamp(path) if path.is_dir() else f"sha256:{file_hash(str(path))}"

    @override
    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        keys = forward.batch.keys
        given = self.source.read(keys)
        none = np.full(self.source.size, np.nan, np.float32)
        maps = np.stack(
            [
                [given.get((key, target), given.get((key, None), none)) for target in row]
                for key, row in zip(keys, targets.tolist(), strict=True)
            ]
        )
        return bounded(torch.from_numpy(maps))


class _Source(Protocol):
    """A store of maps by key, all of one size."""

    size: Size

    def read(self, keys: Sequence[str]) -> Found: ...


class _Parquet:
    def __init__(self, path: str) -> None:
        self.path = path
        try:
            schema = pq.read_schema(path)
            about = os.stat(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path} is no Parquet file of maps: {error}") from error
        maps = column_of(schema)
        for column in (*ABOUT, maps):
            if column not in schema.names:
                raise UserError(
                    f"{path} has no column {column}; it has {', '.join(schema.names)}: a Parquet "
                    "file of maps has key, map, height and width"
                )
        kind = schema.field(maps).type
        numbers = getattr(kind, "value_type", None)
        if numbers is None or not (pa.types.is_floating(numbers) or pa.types.is_integer(numbers)):
            raise UserError(f"the column {maps} of {path} is {kind}: it must be a list of numbers")
        self._target = "target" if "target" in schema.names else "NULL"
        self._unpacked = _Unpacked.of(path, about.st_size, about.st_mtime_ns)
        self.size = self._unpacked.size
        self._db = duckdb.connect()

    def read(self, keys: Sequence[str]) -> Found:
        literally = re.sub(r"([*?\[])", r"[\1]", self.path)  # escapes characters of patterns
        try:
            rows = self._db.execute(
                f"SELECT key, {self._target}, file_row_number "
                "FROM read_parquet(?, file_row_number = true) "
                f"WHERE key IN ({', '.join('?' * len(keys))})",
                [literally, *keys],
            ).fetchall()
        except duckdb.Error as error:
            raise UserError(f"the maps {self.path} cannot be read: {error}") from error
        return {(key, target): self._unpacked.maps[row] for key, target, row in rows}


class _Unpacked:
    """A temporary file with the maps of a Parquet file, row by row.

    A single row of Parquet cannot be read without a thousand others, and samples come in another
    order.
    """

    def __init__(self, path: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ttame-maps-")
        target, rows, self.size = Path(self._folder.name) / "maps", 0, (0, 0)
        try:
            with pq.ParquetFile(path, pre_buffer=False) as file, target.open("wb") as stream:
                column = column_of(file.schema_arrow)
                _check_counts(file, column, path)
                for batch in file.iter_batches(batch_size=64, columns=[*ABOUT, column]):
                    if not rows and batch.num_rows:
                        self.size = batch["height"][0].as_py() or 0, batch["width"][0].as_py() or 0
                    _check_sizes(batch, column, self.size, path)
                    stream.write(restore(batch[column], column).tobytes())
                    rows += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            where = tempfile.gettempdir()
            raise UserError(f"the maps {path} cannot be unpacked in {where}: {error}") from error
        if not rows:
            raise UserError(f"{path} holds no maps")
        self.maps = np.memmap(target, np.float32, "r", shape=(rows, *self.size))

    @staticmethod
    @lru_cache(maxsize=4)
    def of(path: str, size: int, mtime: int) -> _Unpacked:
        """Unpack a file, or return what was unpacked from the same size and time of change."""
        return _Unpacked(path)


def _check_counts(file: pq.ParquetFile, column: str, path: str) -> None:
    """Raise UserError where maps hold too many values, as small compressed files can."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if (
                chunk.path_in_schema.split(".")[0] == column
                and chunk.num_values > LARGEST * group.num_rows
            ):
                raise UserError(
                    f"the maps of {path} have {chunk.num_values // max(1, group.num_rows)} values "
                    f"each, and {LARGEST} at most are read: make them smaller"
                )


def _check_sizes(batch: pa.RecordBatch, column: str, size: Size, path: str) -> None:
    counts = pc.fill_null(pc.list_value_length(batch[column]), 0).to_pylist()
    given = zip(
        batch["key"].to_pylist(),
        batch["height"].to_pylist(),
        batch["width"].to_pylist(),
        counts,
        strict=True,
    )
    for key, height, width, count in given:
        if not height or not width or count != height * width:
            raise UserError(
                f"the map of {key} in {path} has {count} values, which are not {height}×{width}: "
                "correct its height and width"
            )
        _check_size(key, (height, width), size, path)


def _check_size(key: str, own: Size, size: Size, path: str) -> None:
    if own != size:
        raise UserError(
            f"the map of {key} in {path} is {_text(own)}, another is {_text(size)}: bring all to "
            "one size"
        )


class _Folder:
    def __init__(self, path: str) -> None:
        self.path = Path(path)
        with os.scandir(path) as entries:
            first = next((e.name for e in entries if e.name.endswith(".npy") and e.is_file()), None)
        if first is None:
            raise UserError(f"the folder {path} holds no maps: they are called <key>.npy")
        height, width = self._load(first).shape
        self.size: Size = (height, width)

    def read(self, keys: Sequence[str]) -> Found:
        maps: Found = {}
        for key in keys:
            # The key must be a file's name, so that it cannot lead out of the folder.
            if "/" not in key and (self.path / f"{key}.npy").is_file():
                values = self._load(f"{key}.npy")
                _check_size(key, values.shape, self.size, str(self.path))
                maps[key, None] = values.astype(np.float32)
        return maps

    def _load(self, name: str) -> np.ndarray:
        path = self.path / name
        try:
            # Mapped: a header that claims more than the file holds is found out before it is read.
            values = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            raise UserError(f"the map {path} cannot be read: {error}") from error
        if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "biuf":
            about = f"{_text(values.shape)} of {values.dtype}"
            raise UserError(f"the map {path} is {about}: it must be h×w numbers")
        return values


def _place(path: str) -> Path:
    if not os.path.exists(path):
        raise UserError(f"there are no maps at {path}: correct the path of the explainer imported")
    return Path(path)


def _folder_stamp(folder: Path) -> str:
    """Hash the names, sizes and times of a folder's files, whatever their order."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".npy"):
                about = entry.stat()
                line = f"{entry.name}/{about.st_size}/{about.st_mtime_ns}"
                total += int.from_bytes(hashlib.sha256(line.encode()).digest(), "big")
    return f"folder:{total % 2**256:064x}"


def _text(size: Sequence[int]) -> str:
    return "×".join(map(str, size))
