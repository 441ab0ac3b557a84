"""How the values of maps are stored: as `map`, or as `map_uint8` in 255ths."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

QUANTISED = "map_uint8"
STORED = {"float16": ("map", pa.float16()), "uint8": (QUANTISED, pa.uint8())}  # by maps.dtype


def column_of(schema: pa.Schema) -> str:
    """Name of the column that holds the maps of a file."""
    return QUANTISED if QUANTISED in schema.names else "map"


def store(maps: np.ndarray, values: pa.DataType) -> np.ndarray:
    """Maps in [0, 1], each value rounded to the nearest that the type has."""
    if pa.types.is_uint8(values):
        return np.rint(255 * maps).astype(np.uint8)
    return maps.astype(np.float16)


def restore(maps: pa.Array, column: str) -> np.ndarray:
    """The values of a column of maps as float32, one map after another."""
    values = maps.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return values / np.float32(255) if column == QUANTISED else values
