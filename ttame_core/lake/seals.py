"""The hash that a Parquet file carries of itself, over its data and its footer.

It stands in the footer, as SHA-256 of the whole file with zeros in its own place. Page checksums
alone would leave the footer open, where one flipped bit moves a column or leaves out rows.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

KEY = b"ttame.seal"
BLANK = b"0" * 64
CHUNK = 2**20  # bytes
MAGIC = b"PAR1"


def seal(path: Path) -> None:
    """Seal a Parquet file: replace the zeros (BLANK) at KEY in its metadata by the file's hash."""
    with path.open("r+b") as stream:
        place = _place(stream)
        if place is None:
            raise ValueError(f"{path} has no place for a seal")
        digest = _digest(stream, place)
        stream.seek(place)
        stream.write(digest)


def is_sealed(stream: IO[bytes]) -> bool:
    """Say whether a Parquet file carries a hash of itself."""
    return _place(stream) is not None


def is_broken(stream: IO[bytes]) -> bool:
    """Say whether a Parquet file is not as it was sealed; one without a seal is not broken."""
    place = _place(stream)
    if place is None:
        return False
    stream.seek(place)
    return stream.read(len(BLANK)) != _digest(stream, place)


def _place(stream: IO[bytes]) -> int | None:
    """Return where the hash stands in a Parquet file; None where the file holds none."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    ending = stream.read(8)
    length = int.from_bytes(ending[:4], "little")
    if ending[4:] != MAGIC or length > size - 8:
        return None
    begin = size - 8 - length
    stream.seek(begin)
    found = stream.read(length).rfind(KEY)
    # After the key follow the type of the next field and its length, a byte each.
    return None if found < 0 else begin + found + len(KEY) + 2


def _digest(stream: IO[bytes], place: int) -> bytes:
    """Return the hash of a file with zeros in the place of the hash, as hexadecimal digits."""
    digest = hashlib.sha256()
    stream.seek(0)
    left = place
    while left and (chunk := stream.read(min(left, CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    digest.update(BLANK)
    stream.seek(place + len(BLANK))
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest().encode()
