"""The workspace: its layout, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import os
import re
import socket
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from ttame_core.errors import UserError
from ttame_core.lake import seals
from ttame_core.stopping import scratch
from ttame_core.storage import file_system, reaching, temporary_folder

FINGERPRINT = b"ttame.fingerprint"
MADE_FROM = b"ttame.made_from"
ARROW_SCHEMA = b"ARROW:schema"  # metadata that pyarrow adds
PATH = b"ttame.path"  # where in its workspace a file was written
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
WRITING = ".writing-"  # in the name of a file that is not whole yet
HALF_WRITTEN = re.compile(rf"\..+{re.escape(WRITING)}(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]+")
ABANDONED = 24 * 3600  # seconds without a write after which a file's writer is taken for dead
FOOTER = 2**16  # bytes at the end of a Parquet file; nearly all footers fit into them
FOOTERS = 500  # footers that are asked for at once
DOCUMENT = 64 * 2**20  # bytes of a file of JSON or YAML, at most
# Rows of a Parquet file, at most: so many, and for each byte of the file so many more. A row of
# ttame's tables has a text or numbers of its own, which take more than a hundredth of a byte.
ROWS, ROWS_PER_BYTE = 1_000_000, 100
ROW_GROUP = 6 * 2**20  # bytes of a thousand 56×56 float16 maps, or of all scores of a shard


class NoPlainFile(UserError, OSError):
    """The error for a pipe, a device, a folder or links in a circle in the place of a file.

    The reading of a pipe might never end.
    """


def fingerprint(made_from: Any) -> str:
    """Hash a description of what makes a file (inputs, settings, weights), which JSON can hold."""
    canonical = json.dumps(made_from, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class RowGroups:
    """A writer that gathers small record batches into row groups of some megabytes (ROW_GROUP).

    Attributes:
        schema: schema of the rows.
        about: metadata of the file that is known only at its end.
    """

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self.schema = schema
        self.about: dict[str, str] = {}
        self._writer = writer
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a batch, and write the gathered rows where they are enough for a row group."""
        self._batches.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what has been gathered as a row group."""
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches, self.schema))
            self._batches, self._bytes = [], 0


class Lake:
    """A workspace: a folder, or a prefix of a bucket.

    The paths that methods take are relative to the root and use `/`. Every Parquet file carries the
    fingerprint of what made it, so that a caller can ask `is_current` and skip what is there.

    Args:
        root: path of the folder, or URL.
    """

    def __init__(self, root: str | Path) -> None:
        self.url = str(root)
        self.fs, path = file_system(self.url)
        self.local = isinstance(self.fs, LocalFileSystem)
        self.root = os.path.abspath(path) if self.local else path.rstrip("/")
        self._checked: dict[str, tuple[int, ...]] = {}  # by path: the state of a checked file
        self._hashes: dict[str, tuple[Any, str]] = {}  # by path: the file's state, its SHA-256

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[type[Lake], tuple[str]]:
        return Lake, (self.url,)

    # ---- paths -----------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """The workspace's absolute address, which holds in processes with another folder."""
        return self.root if self.local else self.url

    def path(self, *parts: str) -> str:
        """Return the absolute path or key of a file, as its file system wants it.

        Raises:
            UserError: the path would lead out of the workspace.
        """
        joined = "/".join(parts)
        if ".." in joined.split("/") or joined.startswith("/"):
            raise UserError(f"{joined} would lie outside the workspace {self.url}")
        return f"{self.root}/{joined}"

    def link_to(self, path: str) -> str | None:
        """Return the first link on the way from the root to a path, or None where there is none.

        The root itself is not looked at: users may make the whole workspace a link.
        """
        step = self.root
        for part in path.split("/") if self.local else ():
            step = f"{step}/{part}"
            if os.path.islink(step):
                return step
        return None

    def _refuse_links(self, path: str) -> None:
        """Raise UserError where a link leads to the folder of a file that is to be changed."""
        if link := self.link_to(path.rpartition("/")[0]):
            raise UserError(
                f"{link} is a link, and ttame changes nothing behind links: put a folder in its "
                "place, or make the whole workspace a link"
            )

    # ---- reading ---------------------------------------------------------------------------

    def exists(self, path: str) -> bool:
        """Say whether there is a file or folder at a path."""
        with suppress(FileNotFoundError), reaching(self.url, self.fs):
            self.fs.info(self.path(path))
            return True
        return False

    def glob(self, pattern: str) -> list[str]:
        """Return the paths, relative to the root, that match a pattern, sorted.

        What follows its last wildcard is looked for by name: folders that may hold a file for each
        shard are not listed for one of them.
        """
        parts = pattern.split("/")
        last = max((i for i, part in enumerate(parts, 1) if glob.has_magic(part)), default=0)
        with reaching(self.url, self.fs):
            listed = self.fs.glob("/".join([glob.escape(self.root), *parts[:last]]))
        paths = ("/".join([str(p), *parts[last:]])[len(self.root) :].lstrip("/") for p in listed)
        return sorted(path for path in paths if last == len(parts) or self._is_there(path))

    def _is_there(self, path: str) -> bool:
        """Say whether a path leads to something, through folders and links that may be no such."""
        return os.path.exists(self.path(path)) if self.local else self.exists(path)

    def entries(self, folder: str) -> dict[str, dict[str, Any]]:
        """List a folder: what the file system knows of each entry (size, type, time), by name."""
        place = self.path(folder).rstrip("/")
        while True:
            try:
                with reaching(self.url, self.fs):
                    listed = self.fs.ls(place, detail=True)
                break
            except (FileNotFoundError, NotADirectoryError):
                if not (self.local and os.path.isdir(place)):
                    return {}
            # Otherwise a file in the folder was removed while it was listed.
        return {about["name"].rstrip("/").rsplit("/", 1)[-1]: about for about in listed}

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file for reading.

        Raises:
            StoreAway: an object store does not answer.
        """
        with reaching(self.url, self.fs), self.stream(path) as stream:
            yield stream

    def stream(self, path: str) -> IO[bytes]:
        """Return a stream of a file that reads a large block (BLOCK) in each request.

        Raises:
            NoPlainFile: something else than a file is there.
        """
        self._refuse_special(path)
        return self.fs.open(self.path(path), "rb")

    def _refuse_special(self, path: str) -> None:
        if not self.local:
            return
        place = self.path(path)
        try:
            plain = stat.S_ISREG(os.stat(place).st_mode)
        except OSError as error:  # whoever opens the file tells of other errors than this
            plain = error.errno != errno.ELOOP
        if not plain:
            raise NoPlainFile(f"{place} is no plain file: remove it")

    def read_bytes(self, path: str, end: int | None = None) -> bytes:
        """Read a small file, or its first `end` bytes, in one request."""
        self._refuse_special(path)
        with reaching(self.url, self.fs):
            return self.fs.cat_file(self.path(path), start=0, end=end)

    def read_document(self, path: str) -> bytes:
        """Read a file of JSON or YAML in one request.

        Raises:
            UserError: it is larger than any that ttame writes (DOCUMENT).
        """
        content = self.read_bytes(path, end=DOCUMENT + 1)
        if len(content) > DOCUMENT:
            raise UserError(f"{self.path(path)} is larger than any that ttame writes: remove it")
        return content

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file's content.

        The hash is remembered, and computed again where the file's size, its time or, in an object
        store, its ETag has changed.
        """
        with reaching(self.url, self.fs):
            about = self.fs.info(self.path(path))
        state = (about["size"], *(about.get(name) for name in ("ETag", "mtime", "ino", "created")))
        known = self._hashes.get(path)
        if known is None or known[0] != state:
            with self.open(path) as stream:
                digest = hashlib.file_digest(stream, "sha256")  # type: ignore[arg-type]
            self._hashes[path] = known = (state, digest.hexdigest())
        return known[1]

    def read_json(self, path: str) -> Any:
        """Read a JSON file."""
        with self.open(path) as stream:
            return json.load(stream)

    def parquet_rows(self, path: str) -> int:
        """Return the number of rows of a Parquet file, from its footer."""
        with self._parquet(path, whole=False) as stream:
            return pq.read_metadata(stream).num_rows

    @contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        """Yield a local path with the content of a file, for libraries that read no streams."""
        if self.local:
            self._refuse_special(path)
            yield self.path(path)
            return
        with temporary_folder() as folder:
            copy = f"{folder}/{path.rsplit('/', 1)[-1]}"
            with reaching(self.url, self.fs):
                self.fs.get_file(self.path(path), copy)
            yield copy

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file, or only some of its columns.

        Raises:
            UserError: the file is damaged.
        """
        if self.local:
            self.check([path])
        with self._parquet(path, whole=columns is None) as stream:
            if not self.local and columns is None:
                self._refuse_broken(path, stream)
            # Not by PyArrow's threads: one that lets go of this stream while Python ends aborts it.
            if columns is None:  # without PyArrow's data sets, which import pandas
                return pq.ParquetFile(stream).read(use_threads=False)
            return pq.read_table(stream, columns=columns, use_threads=False, pre_buffer=False)

    def check(self, paths: Iterable[str]) -> None:
        """Check that Parquet files are as they were written, by the hash that each carries.

        A file is not checked again while its size and time stay the same.
        Files of an object store, which has checksums of its own, are checked as they are read.

        Raises:
            UserError: a file was changed or damaged; the message names it.
        """
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(self._check, paths if self.local else ()):
                pass

    def is_sealed(self, path: str) -> bool:
        """Say whether a Parquet file carries a hash of itself."""
        with self.open(path) as stream:
            return seals.is_sealed(stream)

    def _check(self, path: str) -> None:
        try:
            about = os.stat(self.path(path))
        except OSError:
            return  # whoever reads it says so
        state = about.st_size, about.st_mtime_ns, about.st_ino
        if self._checked.get(path) != state:
            with self._parquet(path, whole=False) as stream:
                self._refuse_broken(path, stream)
            self._checked[path] = state

    def _refuse_broken(self, path: str, stream: IO[bytes]) -> None:
        """Raise UserError where a Parquet file was changed, or expands as no table of ttame does.

        A thousand bytes can stand for gigabytes of one value.
        """
        if seals.is_broken(stream):
            raise self._damaged(path, "it is not as it was written")
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        footer = pq.read_metadata(stream)
        stream.seek(0)
        rows = sum(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
        if max(rows, footer.num_rows) > ROWS + ROWS_PER_BYTE * size:
            raise self._damaged(path, "it holds more rows than a file of its size can")

    def _damaged(self, path: str, reason: str) -> UserError:
        return UserError(
            f"{self.path(path)} is damaged ({reason}): delete it and run `ttame audit` again"
        )

    @contextmanager
    def _parquet(self, path: str, whole: bool) -> Iterator[IO[bytes]]:
        """Open a Parquet file, or raise UserError where it is damaged."""
        at_once = whole and not self.local
        with io.BytesIO(self.read_bytes(path)) if at_once else self.open(path) as stream:
            try:
                yield stream
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None):  # of the disk; Arrow's own have none
                    raise
                raise self._damaged(path, str(error)) from error

    def metadata(self, path: str) -> dict[str, str]:
        """Return the metadata of a Parquet file; empty where the file is missing or damaged."""
        return next(self.metadata_of([path]))

    def metadata_of(self, paths: Sequence[str]) -> Iterator[dict[str, str]]:
        """Yield the metadata of Parquet files, in order; object stores get few requests."""
        if self.local:
            yield from map(self._metadata, paths)
            return
        for first in range(0, len(paths), FOOTERS):
            some = paths[first : first + FOOTERS]
            with reaching(self.url, self.fs):
                urls = [self.path(path) for path in some]
                ends = self.fs.cat_ranges(urls, -FOOTER, None, on_error="return")
            yield from map(self._metadata, some, ends)

    def _metadata(self, path: str, end: bytes | Exception | None = None) -> dict[str, str]:
        """Read the metadata of one file.

        Args:
            path: path of the file.
            end: the file's last bytes, or the error of reading them; None where they are not read.
        """
        try:
            if isinstance(end, OSError) and end.errno == errno.EINVAL:
                return {}  # the file is empty: there is no end to read
            if isinstance(end, Exception):
                with reaching(self.url, self.fs):
                    raise end
            with self.open(path) if end is None else io.BytesIO(end) as stream:
                metadata = pq.read_metadata(stream).metadata or {}
            return {k.decode(): v.decode() for k, v in metadata.items() if k != ARROW_SCHEMA}
        except pa.ArrowException:
            return self._metadata(path) if isinstance(end, bytes) and len(end) == FOOTER else {}
        except (OSError, UnicodeDecodeError):
            return {}

    def is_current(self, path: str, made_from: Any) -> bool:
        """Say whether a Parquet file is there, whole, and made from what it should be made from.

        Args:
            path: path of the file.
            made_from: description of what should make it, as in `fingerprint`.
        """
        return self.are_current([(path, made_from)])[0]

    def are_current(self, files: Sequence[tuple[str, Any]]) -> list[bool]:
        """Say for many files what `is_current` says, each given with what should make it."""
        stored = self.metadata_of([path for path, _ in files])
        return [
            metadata.get(FINGERPRINT.decode()) == fingerprint(made_from)
            for metadata, (_, made_from) in zip(stored, files, strict=True)
        ]

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens where there is none.

        Raises:
            UserError: a link leads to its folder.
        """
        self._refuse_links(path)
        with suppress(FileNotFoundError), reaching(self.url, self.fs):
            if self.exists(path):  # a read-only disk refuses to remove even a missing file
                self.fs.rm_file(self.path(path))

    def remove_orphans(self, folders: str) -> None:
        """Remove the half-written files of dead processes in folders.

        `create` removes those of the file that it writes.

        Args:
            folders: pattern of the folders' paths.
        """
        if self.local:
            for folder in self.glob(folders):
                if not self.link_to(folder):
                    _remove_orphans(Path(self.path(folder)), "*")

    # ---- writing ---------------------------------------------------------------------------

    @contextmanager
    def create(self, path: str) -> Iterator[Path]:
        """Yield a local path to write to; the whole file appears at `path` when the context ends.

        In a folder, the file is written beside its path, synced and renamed; on an object store, it
        is put in one request.

        Raises:
            UserError: the file cannot be written, or a link leads to its folder.
        """
        target = self.path(path)
        self._refuse_links(path)
        if self.local:
            yield from self._create_local(Path(target))
            return
        with temporary_folder() as folder:
            temporary = folder / "file"
            yield temporary
            try:
                with reaching(self.url, self.fs):
                    self.fs.put_file(str(temporary), target)
            except FileNotFoundError as error:
                raise UserError(f"there is no bucket for {self.url}: create it first") from error

    def _create_local(self, target: Path) -> Iterator[Path]:
        writer = f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        temporary = target.parent / f".{target.name}{WRITING}{writer}"
        with scratch(temporary):
            yield from self._create_beside(target, temporary)

    def _create_beside(self, target: Path, temporary: Path) -> Iterator[Path]:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_orphans(target.parent, glob.escape(target.name))
            temporary.touch()
        except OSError as error:
            raise UserError(f"cannot write to the workspace {self.url}: {error}") from error
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(target)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            _remove_orphans(target.parent, glob.escape(target.name))
        except Exception as error:
            if reason := _disk_says(error):
                raise UserError(
                    f"cannot write {target}: {reason}: make room for the workspace and run again; "
                    "what is whole stays"
                ) from error
            raise

    @contextmanager
    def create_parquet(
        self, path: str, schema: pa.Schema, made_from: Any, **metadata: str
    ) -> Iterator[RowGroups]:
        """Yield a writer of rows; the whole file appears when the context ends.

        Args:
            path: path of the Parquet file.
            schema: schema of its rows.
            made_from: description of what makes the file, whose fingerprint it carries.
            **metadata: further metadata of the file.
        """
        about: dict[Any, str] = {
            FINGERPRINT: fingerprint(made_from),
            MADE_FROM: json.dumps(made_from, sort_keys=True, default=str),
            PATH: path,
            **metadata,
        }
        marked = schema.with_metadata(about)
        with self.create(path) as temporary:
            with pq.ParquetWriter(temporary, marked, compression="zstd") as writer:
                rows = RowGroups(writer, schema)
                yield rows
                rows.flush()
                writer.add_key_value_metadata(rows.about)
                writer.add_key_value_metadata({seals.KEY: seals.BLANK})
            seals.seal(temporary)

    def write_parquet(
        self,
        path: str,
        rows: pa.Table | Iterable[dict[str, Any]],
        schema: pa.Schema,
        made_from: Any,
        **metadata: str,
    ) -> None:
        """Write a Parquet file with all its rows at once; the arguments are `create_parquet`'s."""
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema)
        with self.create_parquet(path, schema, made_from, **metadata) as writer:
            for batch in table.to_batches():
                writer.write(batch)

    def write_json(self, path: str, value: Any) -> None:
        """Write a value as a JSON file."""
        with self.create(path) as temporary:
            temporary.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def _disk_says(error: BaseException | None) -> str | None:
    """Return the operating system's words where an error's cause is a full disk; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return None


def _remove_orphans(folder: Path, target: str) -> None:
    """Remove half-written versions of the file `target` whose writers are dead (`is_abandoned`)."""
    for orphan in folder.glob(f".{target}{WRITING}*"):
        with suppress(FileNotFoundError):
            if not orphan.is_symlink() and is_abandoned(orphan.name, orphan.stat().st_mtime):
                orphan.unlink()


def is_abandoned(name: str, modified: float) -> bool:
    """Say whether a file is half written and the process that was writing it is dead.

    Args:
        name: name of the file, which contains the names of host and process.
        modified: time of its last change in seconds since the epoch.
    """
    writer = HALF_WRITTEN.fullmatch(name)
    if writer is None:
        return False
    old = time.time() - modified > ABANDONED
    return old or (writer["host"] == _host() and not _is_alive(int(writer["pid"])))


@cache
def _host() -> str:
    """Return a name for this machine and for the container in which its process numbers hold."""
    with suppress(OSError):
        return f"{socket.gethostname()}.{os.stat('/proc/self/ns/pid').st_ino}"
    return socket.gethostname()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# ---- the paths of files -----------------------------------------------------------------------


def dataset_file(dataset: str, name: str) -> str:
    """Return the path of a file about a data set, such as index.parquet."""
    return f"datasets/{dataset}/{name}"


def shard_tar(dataset: str, shard: str) -> str:
    """Return the path of a shard's tar."""
    return f"datasets/{dataset}/shards/{shard}.tar"


def shard_rows(dataset: str, shard: str) -> str:
    """Return the path of a shard's rows: one per sample, and one per input that was rejected.

    The file lies beside the tar and is written after it, so the shard is whole where it exists.
    """
    return f"datasets/{dataset}/shards/{shard}.parquet"


def fitted_folder(dataset: str, backbone: str) -> str:
    """Return the folder of a classifier that was trained here."""
    return f"backbones/dataset={dataset}/backbone={backbone}"


def head_folder(dataset: str, backbone: str, explainer: str) -> str:
    """Return the folder of a trained head."""
    return f"heads/dataset={dataset}/backbone={backbone}/explainer={explainer}"


def trial_file(dataset: str, backbone: str, explainer: str, number: int | None) -> str:
    """Return the path of a trial of a sweep; the pattern of all trials where `number` is None."""
    trial = "*" if number is None else f"{number:03d}"
    return f"sweeps/dataset={dataset}/backbone={backbone}/explainer={explainer}/{trial}.parquet"


def maps_file(dataset: str, backbone: str, explainer: str, shard: str) -> str:
    """Return the path of an explainer's maps of a shard."""
    return f"maps/dataset={dataset}/backbone={backbone}/explainer={explainer}/{shard}.parquet"


def explainer_file(dataset: str, backbone: str, explainer: str) -> str:
    """Return the path of the file with an explainer's method and role (schema EXPLAINERS)."""
    return f"explainers/dataset={dataset}/backbone={backbone}/explainer={explainer}/role.parquet"


def classes_file(dataset: str, backbone: str) -> str:
    """Return the path of the file with the names of a classifier's classes (schema CLASSES)."""
    return f"classes/dataset={dataset}/backbone={backbone}/classes.parquet"


def pasted_file(dataset: str, backbone: str) -> str:
    """Return the path of what became of pictures with pasted parts, or changed as a whole."""
    return f"pasted/dataset={dataset}/backbone={backbone}/pasted.parquet"


def scores_file(metric: str, dataset: str, backbone: str, explainer: str, shard: str) -> str:
    """Return the path of a family's scores of an explainer's maps of a shard."""
    return (
        f"scores/metric={metric}/dataset={dataset}/backbone={backbone}"
        f"/explainer={explainer}/{shard}.parquet"
    )


AUDIT_TIME = "%Y%m%dT%H%M%SZ"  # format of the time, UTC, that names the folder of a record


def audit_folder(name: str, timestamp: str) -> str:
    """Return the folder of an audit's record."""
    return f"audits/{name}/{timestamp}"
