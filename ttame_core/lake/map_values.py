"""Conversion of maps to and from stored values: float16 in `map`, or 255ths in `map_uint8`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

QUANTISED = "map_uint8"
STORED = {"float16": ("map", pa.float16()), "uint8": (QUANTISED, pa.uint8())}  # by maps.dtype


def column_of(schema: pa.Schema) -> str:
    """Return the name of the column that holds the maps of a file."""
    return QUANTISED if QUANTISED in schema.names else "map"


def dtype_of(schema: pa.Schema) -> str:
    """Return the number format of the maps in a file, as a spec's `maps.dtype` names it."""
    return "uint8" if column_of(schema) == QUANTISED else "float16"


def store(maps: np.ndarray, values: pa.DataType) -> np.ndarray:
    """Round maps to the nearest values that can be stored.

    Args:
        maps: floats in [0, 1], without NaN.
        values: Arrow type of the stored values, float16 or uint8.
    """
    if pa.types.is_uint8(values):
        return np.rint(255 * maps).astype(np.uint8)
    return maps.astype(np.float16)


def restore(maps: pa.Array, column: str) -> np.ndarray:
    """Return stored maps as float32 in [0, 1], flat, one map after another.

    Args:
        maps: column of lists of values.
        column: name of the column.
    """
    return _restored(maps.flatten().to_numpy(zero_copy_only=False), column)


def round_as_stored(maps: np.ndarray, dtype: str) -> np.ndarray:
    """Return maps (…, h, w) float32 as they would be read back from a file.

    Args:
        maps: float32 in [0, 1]; NaN stays NaN.
        dtype: number format of stored maps, as a spec's `maps.dtype` names it.
    """
    column, values = STORED[dtype]
    is_map = ~np.isnan(maps)
    rounded = _restored(store(np.where(is_map, maps, 0), values), column)
    return np.where(is_map, rounded, np.float32(np.nan))


def _restored(values: np.ndarray, column: str) -> np.ndarray:
    values = values.astype(np.float32)
    return values / np.float32(255) if column == QUANTISED else values
