"""Someone else's maps, read by the samples' keys."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ttame_core import spec
from ttame_core.attention import AttentionHead
from ttame_core.backbones import Backbone, file_hash
from ttame_core.errors import UserError
from ttame_core.explainers.base import Explainer, ForwardPass, bounded

COLUMNS = ("key", "map", "height", "width")
Size = tuple[int, int]  # height, width
Found = dict[tuple[str, int | None], np.ndarray]  # by key and target; None: of any target


class Imported(Explainer):
    """Maps that others made, from a Parquet file or a folder of .npy files.

    Parquet: a row per map with columns key, map (list of numbers, row by row), height and width; a
    column target is optional: without it, a map is of whatever class is asked for. Folder:
    `<key>.npy` of (h, w) numbers each. Maps cover what the classifier sees (resized and cropped as
    the backbone has it), all of one size; of more than 224 a side, they are averaged down to that.
    A sample without a map is left out. Keys are in the view `samples`.

    One batch's maps are read at a time. A Parquet file that is sorted by key is read faster.
    """

    name = "imported"

    class Settings(spec.Section):
        path: str

    def __init__(
        self,
        backbone: Backbone,
        settings: dict[str, Any] | None = None,
        head: AttentionHead | None = None,
    ) -> None:
        super().__init__(backbone, settings)
        path = self.settings.path
        self.source: _Source = _Folder(path) if _place(path).is_dir() else _Parquet(path)

    @classmethod
    def identity(cls, settings: dict[str, Any]) -> Any:
        """The content of the file; of a folder, its files' names, sizes and times."""
        path = _place(settings["path"])
        return _folder_stamp(path) if path.is_dir() else f"sha256:{file_hash(str(path))}"

    def attribute(self, forward: ForwardPass, targets: Tensor) -> Tensor:
        keys = forward.batch.keys
        found = self.source.read(keys)
        size = self.source.size
        for (key, _), values in found.items():
            if values.shape != size:
                raise UserError(
                    f"the map of {key} in {self.settings.path} is {_text(values.shape)}, another "
                    f"is {_text(size)}: bring all to one size"
                )
        none = np.full(size, np.nan, np.float32)
        maps = np.stack(
            [
                [found.get((key, target), found.get((key, None), none)) for target in row]
                for key, row in zip(keys, targets.tolist(), strict=True)
            ]
        )
        return bounded(torch.from_numpy(maps))


class _Source(Protocol):
    """Maps by key, all of one size."""

    size: Size

    def read(self, keys: Sequence[str]) -> Found: ...


class _Parquet:
    def __init__(self, path: str) -> None:
        self.path = path
        try:
            schema = pq.read_schema(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path} is no Parquet file of maps: {error}") from error
        for column in COLUMNS:
            if column not in schema.names:
                raise UserError(
                    f"{path} has no column {column}; it has {', '.join(schema.names)}: a Parquet "
                    "file of maps has key, map, height and width"
                )
        kind = schema.field("map").type
        numbers = getattr(kind, "value_type", None)
        if numbers is None or not (pa.types.is_floating(numbers) or pa.types.is_integer(numbers)):
            raise UserError(f"the column map of {path} is {kind}: it must be a list of numbers")
        self._target = "target" if "target" in schema.names else "NULL AS target"
        self._db = duckdb.connect()
        first = self._rows("SELECT height, width FROM read_parquet(?) LIMIT 1")
        if not first.num_rows:
            raise UserError(f"{path} holds no maps")
        self.size: Size = (first["height"][0].as_py(), first["width"][0].as_py())

    def read(self, keys: Sequence[str]) -> Found:
        marks = ", ".join("?" * len(keys))
        rows = self._rows(
            f"SELECT key, {self._target}, height, width, map FROM read_parquet(?) "
            f"WHERE key IN ({marks})",
            *keys,
        )
        found: Found = {}
        for place in range(rows.num_rows):
            key, target, height, width = (
                rows[name][place].as_py() for name in ("key", "target", "height", "width")
            )
            listed = rows["map"][place].values
            values = np.zeros(0) if listed is None else listed.to_numpy(zero_copy_only=False)
            if not height or not width or len(values) != height * width:
                raise UserError(
                    f"the map of {key} in {self.path} has {len(values)} values, which are not "
                    f"{height}×{width}: correct its height and width"
                )
            found[key, target] = values.astype(np.float32).reshape(height, width)
        return found

    def _rows(self, sql: str, *values: str) -> pa.Table:
        literally = re.sub(r"([*?\[])", r"[\1]", self.path)  # no character is a pattern's
        try:
            return self._db.sql(sql, params=[literally, *values]).to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"the maps {self.path} cannot be read: {error}") from error


class _Folder:
    def __init__(self, path: str) -> None:
        self.path = Path(path)
        with os.scandir(path) as entries:
            first = next((e.name for e in entries if e.name.endswith(".npy")), None)
        if first is None:
            raise UserError(f"the folder {path} holds no maps: they are called <key>.npy")
        height, width = self._load(first).shape
        self.size: Size = (height, width)

    def read(self, keys: Sequence[str]) -> Found:
        return {
            (key, None): self._load(f"{key}.npy").astype(np.float32)
            for key in keys
            if (self.path / f"{key}.npy").exists()
        }

    def _load(self, name: str) -> np.ndarray:
        path = self.path / name
        try:
            with path.open("rb") as stream:
                values = np.lib.format.read_array(stream, allow_pickle=False)
        except (OSError, ValueError) as error:
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
    """A sum over its files, which needs neither their order nor room for all of them."""
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
