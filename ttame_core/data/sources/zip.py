"""A zip file of pictures."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import IO, Any

from pydantic import Field
from typing_extensions import override

from ttame_core import spec
from ttame_core.data.files import LARGEST, is_hidden, locate, shown, stamp
from ttame_core.data.images import is_image
from ttame_core.data.sources.base import Entry, File, Source
from ttame_core.data.sources.containers import by_container, inside, opened, parts_of
from ttame_core.data.sources.folder import as_splits, in_class_folders
from ttame_core.data.splits import BESIDE, split_folders
from ttame_core.errors import UserError


class ZipSettings(spec.Section):
    """The keys of a spec for zip files; with one for each split, `path: {train: …, test: …}`."""

    path: spec.Location = Field(description="the file, or one for each split")


class Zip(Source):
    """A source of the images in a zip file, in a folder for each class or without classes.

    Nothing is unpacked to a disk: a picture is read where it lies, and its size checked before.
    """

    name = "zip"
    settings: ZipSettings
    Settings = ZipSettings

    @override
    def entries(self) -> Iterator[Entry]:
        for split, fs, path in locate(self.settings.path, "zip file"):
            place = fs.unstrip_protocol(path)
            with opened(place) as stream, _archive(stream, place) as archive:
                files = _files(archive, place, stamp(fs.info(path)))
                splits = {} if split else _splits(files)
                if not splits:
                    yield from in_class_folders(files, split)
                    continue
                self.remarks.append(as_splits(path, splits))
                for own, name in splits.items():
                    yield from in_class_folders(_below(files, name), own)
                for file in files:
                    if file.path.split("/")[0] not in splits.values():
                        yield Entry(shown(file.path), "", None, None, "", "file", BESIDE)

    @override
    @contextmanager
    def reading(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Callable[[str], bytes]]:
        with ExitStack() as files:
            archives = {}
            for place in by_container(rows):
                archive = files.enter_context(_archive(files.enter_context(opened(place)), place))
                members = {member.header_offset: member for member in archive.infolist()}
                archives[place] = archive, members

            def read(location: str) -> bytes:
                place, (offset,) = parts_of(location)
                archive, members = archives[place]
                return _content(archive, members[offset])

            yield read


@contextmanager
def _archive(stream: Any, place: str) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise UserError(f"{place} is not a whole zip file ({error}): get it again") from error
    with archive:
        size = stream.seek(0, io.SEEK_END)
        if sum(member.compress_size for member in archive.infolist()) > size:
            raise UserError(
                f"{place} says that it holds more bytes than it has: its files lie over one another"
            )
        yield archive


def _files(archive: zipfile.ZipFile, place: str, changed: str) -> list[File]:
    """Return the files in an archive, without the folders that hold all the others.

    Raises:
        UserError: there is no file.
    """
    members = {}
    for member in archive.infolist():
        path = member.filename.replace("\\", "/").rstrip("/")
        if not member.is_dir() and not any(map(is_hidden, path.split("/"))):
            members[member.header_offset] = member, path.removeprefix("./")
    if not members:
        raise UserError(f"the zip file {place} holds no files")
    paths = [path for _, path in members.values()]
    top = _wrapping(paths)
    return [
        _file(archive, member, path.removeprefix(top), inside(place, offset), changed)
        for offset, (member, path) in members.items()
    ]


def _below(files: Iterable[File], folder: str) -> Iterator[File]:
    """Yield the files in a folder, with paths relative to it, those in no further folder first."""
    inside = [
        replace(file, path=file.path.removeprefix(f"{folder}/"))
        for file in files
        if file.path.startswith(f"{folder}/")
    ]
    yield from sorted(inside, key=lambda file: "/" in file.path)


def _splits(files: Sequence[File]) -> dict[spec.Split, str]:
    def images(folder: str) -> Iterator[str]:
        return filter(is_image, (file.path for file in _below(files, folder)))

    return split_folders({file.path.split("/")[0] for file in files if "/" in file.path}, images)


def _wrapping(paths: Sequence[str]) -> str:
    """Return the folders, with `/`, in which all lies and that are no classes themselves."""
    images, wrapping = [*filter(is_image, paths)] or paths, ""
    while True:
        below = [path[len(wrapping) :].split("/") for path in images]
        if any(len(parts) < 3 or parts[0] != below[0][0] for parts in below):
            return wrapping
        wrapping += f"{below[0][0]}/"


def _file(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str, location: str, changed: str
) -> File:
    reason = ""
    if path.startswith("/") or ".." in path.split("/"):
        reason = "its name leads out of the zip file"
    elif member.flag_bits & 1:
        reason = "it is encrypted"
    elif member.file_size > LARGEST:
        reason = f"it is larger than {LARGEST // 2**20} MiB"
    stamped = f"{member.file_size}/{changed}/{member.CRC}"
    return File(path, location, stamped, partial(_unpacking, archive, member), reason)


@contextmanager
def _unpacking(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """Open a file in an archive; raises OSError for whatever a damaged one leads the module to."""
    try:
        with archive.open(member) as stream:
            yield stream
    except Exception as error:
        raise OSError(f"it cannot be unpacked: {error}") from error


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with _unpacking(archive, member) as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(f"it is larger than {LARGEST // 2**20} MiB")
    return content
