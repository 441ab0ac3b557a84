"""The rows of a table of Lance, which is a folder with a file for each of its versions."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from typing_extensions import override

from ttame_core.data.sources.rows import Rows
from ttame_core.errors import UserError
from ttame_core.storage import file_system

# The file of a version, which Lance numbers from 1 up, or from 2^64 − 2 down.
VERSION = re.compile(r"(?P<table>|.*/)_versions/(?P<number>\d+)\.manifest", re.S)
SUFFIX = ".lance"
IN_ITS_CODE = re.compile(r",? /\S+\.rs:\d+(:\d+)?")  # places that errors of the library name
PANIC = "PanicException"  # the library's own errors, which derive from BaseException alone


def newest_versions(folder: str, files: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Find the tables of Lance in a folder.

    Args:
        folder: name of the folder.
        files: paths of all files in the folder, relative to it.

    Returns:
        The file of the newest version of each table, by the table's path, which is '' for the
        folder itself; and the files that belong to no table. A table within another, such as a
        branch, belongs to the other.

    Raises:
        UserError: a table has no versions.
    """
    newest: dict[str, str] = {}
    for file in files:
        if found := VERSION.fullmatch(file):
            table = found["table"]
            if table not in newest or _number(file) > _number(newest[table]):
                newest[table] = file
    outermost = [t for t in newest if not any(t != o and t.startswith(o) for o in newest)]
    others = [file for file in files if not file.startswith(tuple(outermost))]
    for file in others:
        parents = f"{folder}/{posixpath.dirname(file)}".split("/")
        if broken := next((name for name in parents if name.lower().endswith(SUFFIX)), None):
            raise UserError(
                f"{broken} is a table of Lance without a version (a file in `_versions`): get it "
                "again, or leave it out"
            )
    return {table.rstrip("/"): newest[table] for table in outermost}, others


def is_lance(place: str) -> bool:
    """Say whether a file is that of a version of a table of Lance, or a single file of Lance."""
    return bool(VERSION.fullmatch(place)) or place.lower().endswith(SUFFIX)


def _number(version: str) -> int:
    """Return the number of a version, from the path of its file."""
    number = int(VERSION.fullmatch(version)["number"])  # type: ignore[index]
    return number if number < 2**63 else 2**64 - 1 - number


class LanceRows(Rows):
    """The rows of one version of a table of Lance, or of a single file of Lance.

    Args:
        place: path of the file.
    """

    form = "Lance"
    # (names of columns, number of the first row, number of rows or None, rows of a batch)
    _scan: Callable[[list[str], int, int | None, int], Iterable[pa.RecordBatch]]

    def __init__(self, place: str) -> None:
        fs, path = file_system(place)
        found = VERSION.fullmatch(path)
        self.place = found["table"].rstrip("/") if found else path
        if not isinstance(fs, LocalFileSystem):
            raise UserError(f"{place} is a table of Lance, which is read from a disk only: copy it")
        try:
            import lance  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"{self.place} is a table of Lance, for which the package `pylance` is needed: "
                "pip install 'ttame[lance]'"
            ) from error
        with self.told():
            if found:
                self._open_table(_number(path))
            else:
                self._open_file()

    def _open_table(self, version: int) -> None:
        import lance

        table = lance.dataset(self.place, version=version)
        # Pictures that are stored apart from the other columns (blobs) are read as bytes.
        options: dict[str, Any] = {"blob_handling": "all_binary", "scan_in_order": True}
        self.schema = table.scanner(**options).projected_schema
        folders = os.walk(os.path.join(self.place, "data"))
        files = (os.path.join(folder, name) for folder, _, names in folders for name in names)
        self.size = sum(map(os.path.getsize, files)) // max(1, table.count_rows())

        def scan(
            columns: list[str], first: int, count: int | None, at_once: int
        ) -> Iterable[pa.RecordBatch]:
            part = {"offset": first, "limit": count} if count else {}
            return table.scanner(columns, batch_size=at_once, **part, **options).to_batches()

        self._scan = scan

    def _open_file(self) -> None:
        from lance.file import LanceFileReader

        about = LanceFileReader(self.place).metadata()
        self.schema = about.schema
        self.size = os.path.getsize(self.place) // max(1, about.num_rows)

        def scan(
            columns: list[str], first: int, count: int | None, at_once: int
        ) -> Iterable[pa.RecordBatch]:
            reader = LanceFileReader(self.place, columns=columns)
            return reader.read_range(
                first, count or about.num_rows, batch_size=at_once
            ).to_batches()

        self._scan = scan

    @override
    @contextmanager
    def told(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if isinstance(error, pa.ArrowException | OSError | ValueError | RuntimeError) or (
                type(error).__name__ == PANIC
            ):
                raise self.damaged(IN_ITS_CODE.sub("", str(error))) from error
            raise

    @override
    def batches(
        self, wanted: Sequence[str], at_once: int, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        parts = [(0, None)] if rows is None else [(row, 1) for row in rows]  # one by one, quickly
        with self.told():
            for begin, count in parts:
                for batch in self._scan(list(wanted), begin, count, at_once):
                    yield begin, batch
                    begin += batch.num_rows
