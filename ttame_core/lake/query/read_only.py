"""The file system that SQL reads: only the lake, read-only, each folder listed once."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from threading import Lock, local
from typing import IO, Any

from fsspec import AbstractFileSystem

from ttame_core.errors import UserError
from ttame_core.lake import seals
from ttame_core.lake.store import Lake
from ttame_core.storage import reaching

SMALL = 8 * 2**20  # bytes of a file that is fetched whole, in one request
CACHED = 256 * 2**20  # bytes of small files that stay in memory, because DuckDB reads files twice
AT_ONCE = 10  # folders that are listed at the same time, as many as an S3 client has connections
TOLD = ("name", "type", "size", "ETag", "LastModified", "mtime", "created")  # entries of a listing
Worth = Callable[[list[str]], list[str]]


class ReadOnly(AbstractFileSystem):
    """A file system of `lake://` paths below the root of a workspace, for one DuckDB connection.

    A folder is listed once, so that all parts of a query see the same files.
    """

    protocol = "lake"
    root_marker = ""
    cachable = False

    def __init__(self, lake: Lake) -> None:
        super().__init__()
        self._lake = lake
        self._folders: dict[str, dict[str, dict[str, Any]]] = {}
        self._cached: OrderedDict[str, bytes] = OrderedDict()
        self.failed: UserError | None = None  # the last error of a store

    def _entries(self, folder: str) -> dict[str, dict[str, Any]]:
        if folder not in self._folders:
            outside = self._lake.local and not self._is_inside(folder)
            listed = {} if outside else self._lake.entries(folder)
            self._folders[folder] = {
                name: {key: about[key] for key in TOLD if key in about}
                for name, about in listed.items()
            }
        return self._folders[folder]

    def _is_inside(self, path: str) -> bool:
        """Say whether a path lies in a local workspace, after all links are followed."""
        root = os.path.realpath(self._lake.root)
        return os.path.realpath(self._lake.path(path)).startswith(f"{root}/") or not path

    def list_all(self, folders: Collection[str]) -> None:
        """List folders of an object store, several at once; those of a disk wait for no answers."""
        if not self._lake.local:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for _ in pool.map(self._entries, folders):
                    pass

    def folders(self, pattern: str, worth: Worth = list) -> list[str]:
        """Return the folders that match a pattern, without listing those that are not worth it.

        Args:
            pattern: the pattern of their paths.
            worth: chooses from folders that match the first parts of the pattern.
        """
        found = [""]
        for part in pattern.split("/") if pattern else ():
            self.list_all(found)
            matching = (pair for folder in found for pair in self._matches(folder, part))
            found = worth([path for path, about in matching if about["type"] == "directory"])
        return found

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the paths that match a pattern, sorted."""
        folder, _, name = self._strip_protocol(path).strip("/").rpartition("/")
        found = self.folders(folder)
        self.list_all(found)
        return sorted(path for folder in found for path, _ in self._matches(folder, name))

    def holds(self, pattern: str) -> bool:
        """Say whether any path matches a pattern."""
        return self._holds("", pattern.split("/"))

    def _holds(self, folder: str, pattern: list[str]) -> bool:
        first, *rest = pattern
        return any(
            not rest or (about["type"] == "directory" and self._holds(path, rest))
            for path, about in self._matches(folder, first)
        )

    def _matches(self, folder: str, pattern: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield path and description of the entries of a folder whose names match a pattern."""
        for name, about in self._entries(folder).items():
            if fnmatchcase(name, pattern):
                yield f"{folder}/{name}" if folder else name, about

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return a file's entry in the listing of its folder.

        Raises:
            FileNotFoundError: the listing has no such file.
        """
        folder, _, name = self._strip_protocol(path).strip("/").rpartition("/")
        if name not in self._entries(folder):
            raise FileNotFoundError(path)
        return self._entries(folder)[name]

    def modified(self, path: str) -> datetime:
        """Return the time of a file's last change."""
        about = self.info(path)
        when = about.get("LastModified") or about.get("mtime") or about.get("created")
        return when if isinstance(when, datetime) else datetime.fromtimestamp(float(when or 0), UTC)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a folder."""
        entries = self._entries(self._strip_protocol(path).strip("/"))
        return list(entries.values()) if detail else list(entries)

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Shared:
        """Open a file for reading.

        Raises:
            PermissionError: the mode is not one for reading, or the path leads out of the
                workspace.
        """
        return _Shared(self._open(path, mode))

    def _open(self, path: str, mode: str) -> IO[bytes] | _Watched:
        path = self._strip_protocol(path)
        if mode not in ("r", "rb"):
            raise PermissionError(f"{path} cannot be written: SQL can only read the workspace")
        if self._lake.local and not self._is_inside(path):
            raise PermissionError(f"{path} lies outside the workspace")
        if self._lake.local:
            if path.endswith(".parquet"):
                with self.noting():
                    self._lake.check([path])
            return self._lake.stream(path)
        if self.info(path)["size"] > SMALL:
            return _Watched(self, path)
        content = self._cached.pop(path, None)
        if content is None:
            content = self._fetch(path)
        self._cached[path] = content
        while sum(map(len, self._cached.values())) > CACHED:
            self._cached.popitem(last=False)
        return io.BytesIO(content)

    def _fetch(self, path: str) -> bytes:
        with self.noting():
            content = self._lake.read_bytes(path)
            if path.endswith(".parquet") and seals.is_broken(io.BytesIO(content)):
                raise UserError(f"{self._lake.path(path)} is not as it was written: delete it")
        self.info(path)["size"] = len(content)  # another machine may have replaced the file
        return content

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note a store's error in `failed` before it is raised: DuckDB only passes on its text."""
        try:
            with reaching(self._lake.url, self._lake.fs):
                yield
        except UserError as error:
            self.failed = error
            raise


class _Shared:
    """A stream that several threads read, each from its own position.

    DuckDB shares one stream between all scans of a file, and seeks and reads in two calls.
    """

    def __init__(self, stream: IO[bytes] | _Watched) -> None:
        self._stream = stream
        self._one = Lock()
        self._own = local()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._one:
            base = self.tell() if whence == os.SEEK_CUR else 0
            absolute = os.SEEK_SET if whence == os.SEEK_CUR else whence
            self._own.place = self._stream.seek(base + offset, absolute)
        return self._own.place

    def tell(self) -> int:
        return getattr(self._own, "place", 0)

    def read(self, size: int = -1) -> bytes:
        with self._one:
            self._stream.seek(self.tell())
            content = self._stream.read(size)
        self._own.place = self.tell() + len(content)
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Watched:
    """A stream of an object store, whose errors are noted (`ReadOnly.noting`)."""

    def __init__(self, reading: ReadOnly, path: str) -> None:
        self._noting = reading.noting
        with self._noting():
            self._stream = reading._lake.stream(path)

    def read(self, size: int = -1) -> bytes:
        with self._noting():
            return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
