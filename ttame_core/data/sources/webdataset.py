"""WebDataset: tars in which the files of a sample have one name and follow one another."""

from __future__ import annotations

import glob
import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import prod
from threading import Lock
from typing import IO, Any

from braceexpand import braceexpand
from pydantic import Field
from typing_extensions import override
from webdataset.tariterators import base_plus_ext

from ttame_core import spec
from ttame_core.data.files import LARGEST, by_split, is_hidden, locate, shown, stamp, walk
from ttame_core.data.images import is_image
from ttame_core.data.labels import label_of, labels_of
from ttame_core.data.sources.base import Entry, Source
from ttame_core.data.sources.containers import by_container, inside, opened, parts_of
from ttame_core.data.splits import BESIDE, split_files
from ttame_core.errors import UserError
from ttame_core.storage import file_system, reaching

# The members of a sample that may hold its label, and the keys of such that are JSON.
LABELS = (
    "cls;json.class_name;json.class;json.label;json.cls;json.category;json.classes;json.labels;txt"
)
LARGEST_LABEL = 2**20  # bytes of a member that holds a label
MOST_TARS = 1_000_000  # that a pattern in braces may stand for
LOOKED_AT = 1000  # samples of a tar that tell where the labels are
MOST_OPEN = 64  # tars at once
TAR = re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2?|txz)$", re.I)
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")


class WebDatasetSettings(spec.Section):
    """The keys of a spec for WebDatasets.

    `path` is a tar, a folder of tars, or a pattern such as `train-{000..146}.tar` or `*.tar`.
    """

    path: spec.Location = Field(
        description="a tar, a folder of tars, or a pattern such as `train-{000..146}.tar`; or one "
        "for each split"
    )
    image: str | None = Field(
        None, description="suffix of the image among a sample's files; default: the one image"
    )
    label: str | None = Field(
        LABELS,
        description="suffix of the label, or `json.` and a key of that file; of several after "
        "semicolons the first that there is; null: no labels",
    )
    copied: bool = Field(
        True,
        alias="copy",
        description="false: pictures stay in these tars, which are read again and again; shards "
        "have an index of them",
    )


@dataclass
class Sample:
    """The files of a sample in a tar.

    Attributes:
        key: name that they have in common.
        members: each file in the tar, by suffix in lower case.
        labels: content of the files that may hold a label, by suffix.
        twice: suffixes that more than one file has.
    """

    key: str
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    labels: dict[str, bytes] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)

    @property
    def images(self) -> list[str]:
        """The suffixes of the images: those without further dots, or where there are none, all."""
        images = [suffix for suffix in self.members if is_image(f"x.{suffix}")]
        return [suffix for suffix in images if "." not in suffix] or images


class WebDataset(Source):
    """A source of the images in tars of a WebDataset, with their labels.

    The tars are read where they are; a picture is reached by its place in its tar.
    """

    name = "webdataset"
    settings: WebDatasetSettings
    Settings = WebDatasetSettings

    @override
    def entries(self) -> Iterator[Entry]:
        choices = [choice.strip() for choice in (self.settings.label or "").split(";")]
        wanted = {choice.partition(".")[0] for choice in choices} - {""}
        chosen: str | None = None
        unlabelled = False
        tars = self._tars()
        splits = split_files(tars) if isinstance(self.settings.path, str) else {}
        if splits:
            self.remarks.append(f"the names of the tars of {self.settings.path} tell their splits")
        for tar, (split, fs, path) in tars.items():
            if splits and tar not in splits:
                yield Entry(shown(tar), "", None, None, kind="file", reason=BESIDE)
                continue
            place, changed = fs.unstrip_protocol(path), stamp(fs.info(path))
            samples = partial(self._samples, place, wanted)
            if not chosen:
                chosen = _first_choice(islice(samples(), LOOKED_AT), choices)
            if chosen and unlabelled:
                raise UserError(
                    f"{place} has labels ({chosen}), and the tars before it have none: leave some "
                    "out of `source.path`, or set `label: null`"
                )
            some = False
            for sample in samples():
                some, unlabelled = True, not chosen
                yield self._entry(sample, (tar, place, changed), splits.get(tar, split), chosen)
            if not some:
                reason = "it holds no samples"
                yield Entry(shown(tar), "", None, split, kind="file", reason=reason)
        if chosen:
            self.remarks.append(f"the labels of {self.settings.path} are those of `{chosen}`")
        elif wanted:
            self.remarks.append(
                f"no sample of {self.settings.path} has a label ({self.settings.label}): where it "
                "has another name, give it as `source.label`"
            )

    def _samples(self, place: str, wanted: set[str]) -> Iterator[Sample]:
        for sample in _samples(place, wanted):
            yield from _parted(sample, self.settings.image)

    def _entry(
        self,
        sample: Sample,
        where: tuple[str, str, str],
        split: spec.Split | None,
        chosen: str | None,
    ) -> Entry:
        """Make the entry of a sample in a tar, whose name, location and stamp are given."""
        tar, place, changed = where
        path = f"{tar}/{sample.key}"
        try:
            suffix = _image(sample, self.settings.image)
            path = f"{path}.{suffix}"
            if shown(path) != path:
                raise ValueError("its name is not UTF-8")
            label = _label(sample, chosen)
        except ValueError as error:
            kind = "image" if sample.images else "file"
            return Entry(shown(path), "", None, split, kind=kind, reason=str(error))
        member = sample.members[suffix]
        settled = not self.settings.copied
        location = inside(place, member.offset_data, member.size, stays=settled)
        told = location if settled else member.offset_data  # a shard has it, and is made anew
        return Entry(path, location, label, split, f"{member.size}/{changed}/{told}")

    def _tars(self) -> dict[str, tuple[spec.Split | None, Any, str]]:
        """Return split, file system and path of each tar, by its name in the lake.

        Raises:
            UserError: there is no tar.
        """
        tars: dict[str, tuple[spec.Split | None, Any, str]] = {}
        for split, place in by_split(self.settings.path):
            for fs, path, name in _listed(place):
                tars.setdefault(f"{split}/{name}" if split else name, (split, fs, path))
        return tars

    @override
    @contextmanager
    def reading(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Callable[[str], bytes]]:
        with ExitStack() as files:
            streams: dict[str, IO[bytes]] = {}
            lock = Lock()
            by_container(rows)

            def read(location: str) -> bytes:
                place, (offset, size) = parts_of(location)
                if size > LARGEST:
                    raise OSError(f"it is larger than {LARGEST // 2**20} MiB")
                with lock, reaching(place, file_system(place)[0]):
                    if place not in streams:
                        if len(streams) >= MOST_OPEN:
                            files.pop_all().close()
                            streams.clear()
                        streams[place] = files.enter_context(opened(place))
                    streams[place].seek(offset)
                    content = streams[place].read(size)
                if len(content) < size:
                    raise OSError("its tar breaks off")
                return content

            yield read


def _listed(place: str) -> Iterator[tuple[Any, str, str]]:
    """Yield file system, path and name of each tar that a path or a pattern stands for."""
    if place.startswith("pipe:") or "::" in place:
        raise UserError(
            f"{place} is not read: give paths or URLs of tars in `source.path`, no programs and no "
            "chains"
        )
    some = False
    expanded = _expanded(place)
    common = posixpath.commonpath([posixpath.dirname(one) for one in expanded])
    for one in expanded:
        fs, path = file_system(one)
        if glob.has_magic(one):
            above = posixpath.dirname(path[: re.search(r"[*?[]", path).start()])  # type: ignore[union-attr]
            for match in sorted(fs.glob(path)):
                some = True
                yield fs, match, posixpath.relpath(match, above)
            continue
        ((_, fs, path),) = locate(one, "tar or folder of tars")
        some = some or not fs.isdir(path)
        if not fs.isdir(path):
            yield fs, path, posixpath.relpath(one, common or ".")
            continue
        for name, _, _ in walk(fs, path):
            if TAR.search(name):
                some = True
                yield fs, posixpath.join(path, name), name
    if not some:
        raise UserError(f"no tar is found at {place}: correct `source.path` in the spec")


def _expanded(pattern: str) -> list[str]:
    """Return the paths that a pattern with braces stands for."""
    ranges = re.findall(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}", pattern)
    count = prod(abs(int(last) - int(first)) + 1 for first, last in ranges)
    try:
        expanded = [*islice(braceexpand(pattern), MOST_TARS + 1)] if count <= MOST_TARS else []
    except ValueError:  # a brace without its other one
        expanded = [pattern]
    if not 0 < len(expanded) <= MOST_TARS:
        raise UserError(f"{pattern} stands for more than {MOST_TARS:,} tars: correct `source.path`")
    return expanded


def _samples(place: str, wanted: set[str]) -> Iterator[Sample]:
    """Yield the samples of a tar, with the contents of the members that may hold a label.

    Args:
        place: path or URL of the tar.
        wanted: last suffixes of these members.

    Raises:
        UserError: the tar is damaged, or breaks off.
    """
    sample: Sample | None = None
    with opened(place) as stream:
        for member, data in _members(stream, place, wanted):
            key, suffix = _name(member.name)
            if sample is None or key != sample.key:
                if sample:
                    yield sample
                sample = Sample(key)
            suffix = suffix.lower()
            if suffix in sample.members:
                sample.twice.add(suffix)
            sample.members[suffix] = member
            if data is not None:
                sample.labels[suffix] = data
        if sample:
            yield sample


def _name(path: str) -> tuple[str, str]:
    key, suffix = base_plus_ext(path)
    return (path, "") if key is None else (key, suffix)


def _members(
    stream: IO[bytes], place: str, wanted: set[str]
) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield the files in a tar, and the contents of those that may hold labels."""
    start = stream.read(4)
    stream.seek(0)
    if start.startswith(COMPRESSED):
        raise UserError(
            f"{place} is compressed, so that no picture in it can be reached alone: unpack it to a "
            ".tar first (gunzip, for .gz)"
        )
    try:
        if not start:
            return
        with tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # they would stay in memory
                member.name = posixpath.normpath(member.name)
                parts = member.name.split("/")
                if member.isdir() or any(map(is_hidden, parts)):
                    continue
                data = None
                if parts[-1].rpartition(".")[2].lower() in wanted and _is_plain(member):
                    stream.seek(member.offset_data)
                    data = stream.read(min(member.size, LARGEST_LABEL + 1))
                yield member, data
            _check_end(stream, tar.offset)
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"the tar {place} cannot be read ({error}): get it again, or leave it out"
        ) from error


def _check_end(stream: IO[bytes], end: int) -> None:
    """Raise EOFError unless a tar is followed by the zeros that end it, and by nothing else."""
    stream.seek(end)
    rest = stream.read(2 * tarfile.RECORDSIZE)
    if len(rest) < tarfile.BLOCKSIZE:
        raise EOFError(f"it breaks off after {end} bytes")
    if any(rest):
        raise EOFError(f"there is something else after {end} bytes, where it ends")


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def _parted(sample: Sample, image: str | None) -> Iterator[Sample]:
    """Yield the samples of files whose names go on after their first dot.

    The files `cat.01.jpg`, `cat.01.cls` and `cat.02.jpg`, `cat.02.cls` are one sample by the rule
    of WebDataset, that names end at the first dot. They are two where each image has its own label,
    or where nothing has one.
    """
    stems = {suffix.rpartition(".")[0] for suffix in sample.images}
    labelled = {suffix.rpartition(".")[0] for suffix in sample.labels}
    own = stems <= labelled if labelled else len(stems) > 1
    if image or "" in stems or not stems or not own:
        yield sample
        return
    parts: dict[str, Sample] = {}
    for suffix, member in sample.members.items():
        stem, _, last = suffix.rpartition(".")
        part = parts.setdefault(stem, Sample(f"{sample.key}.{stem}" if stem else sample.key))
        part.members[last] = member
        if suffix in sample.labels:
            part.labels[last] = sample.labels[suffix]
        if suffix in sample.twice:
            part.twice.add(last)
    yield from parts.values()


def _image(sample: Sample, image: str | None) -> str:
    """Return the suffix of a sample's image; raises ValueError where it has not just one."""
    images = [image.lower()] if image else sample.images
    has = ", ".join(sorted(shown(suffix) or "a file without suffix" for suffix in sample.members))
    if len(images) > 1:
        several = ", ".join(sorted(map(shown, images)))
        raise ValueError(f"it has several images ({several}): name one with `image`")
    if not images or images[0] not in sample.members:
        raise ValueError(f"it has no {image or 'image'}: it has {has}")
    if images[0] in sample.twice:
        raise ValueError(f"its {images[0]} is there twice")
    if not _is_plain(sample.members[images[0]]):
        raise ValueError(f"its {images[0]} is a link, or stored with gaps")
    if sample.key.startswith(("/", "../")):
        raise ValueError("its name leads out of the tar")
    return images[0]


def _label(sample: Sample, choice: str | None) -> str | None:
    """Return a sample's label; raises ValueError where there is none to read."""
    if not choice:
        return None
    suffix, _, keys = choice.partition(".")
    data = sample.labels.get(suffix)
    if data is None:
        raise ValueError(f"it has no label: there is no {suffix} beside it")
    if suffix in sample.twice:
        raise ValueError(f"its {suffix} is there twice")
    if len(data) > LARGEST_LABEL:
        raise ValueError(f"its {suffix} is larger than {LARGEST_LABEL // 2**20} MiB")
    if suffix == "json":
        return labels_of(_value(data, keys))
    label = label_of(data)
    if "\n" in label:
        raise ValueError(f"its {suffix} has several lines, and so is no label")
    return label


def _value(data: bytes, keys: str) -> Any:
    """Return the value at keys, between dots, of JSON; raises ValueError where there is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its json cannot be read: {error}") from error
    for key in filter(None, keys.split(".")):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"its json has no {keys}")
        value = value[key]
    return value


def _first_choice(samples: Iterable[Sample], choices: Sequence[str]) -> str | None:
    """Return the first of the choices for labels that one of some samples has; None for none."""
    first = len(choices)
    for sample in samples:
        for number, choice in enumerate(choices[:first]):
            suffix, _, keys = choice.partition(".")
            with suppress(ValueError):
                if suffix in sample.labels and (suffix != "json" or _has(sample, keys)):
                    first = number
                    break
        if not first:
            break
    return choices[first] if first < len(choices) else None


def _has(sample: Sample, keys: str) -> bool:
    _value(sample.labels["json"], keys)
    return True
