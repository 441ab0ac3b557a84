"""A survey of a user's pictures before an audit: what there is, and what is wrong with it.

Pictures are listed and matched with annotations as for shards; only a sample of them is read.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from ttame_core import spec
from ttame_core.data.annotations import open_annotations
from ttame_core.data.annotations.base import Annotations, BrokenAnnotation
from ttame_core.data.decoding import apart
from ttame_core.data.images import BrokenImage, examine, is_image
from ttame_core.data.labels import each_label
from ttame_core.data.plan import listed_of, plan_shards
from ttame_core.data.sources import open_source
from ttame_core.data.sources.folder import splits_in
from ttame_core.data.sources.table import holds_images
from ttame_core.errors import UserError
from ttame_core.lake import Lake, dataset_file
from ttame_core.storage import temporary_folder

READ = 1000  # pictures that are read, at most; the others are only listed
FEW = 20  # a class with fewer images can hardly be learned or judged
HUGE = 2048  # pixels of the longer side, above which a picture decodes slowly
UNLABELLED = ""  # stands for the class of images without labels
EXAMPLES = 3  # files that a sentence names, at most
PEEKED = 200  # entries of a folder that are examined to guess what it holds
IMAGES_FOLDER = r"(jpeg)?images?|imgs?|photos?|pictures?|data"
# The sources of files with many pictures, by suffix.
KINDS = {
    ".tar": "webdataset",
    ".zip": "zip",
    ".parquet": "table",
    ".arrow": "table",
    ".feather": "table",
    ".lance": "table",
}


@dataclass(frozen=True)
class Survey:
    """The contents of a data set and their problems.

    Attributes:
        images: number of images, by class and split; an image of several labels is in each class.
        splits: number of images by split.
        annotated: number of images that an annotation was found for.
        objects: names of boxes by class, the most frequent first.
        looked_at: number of pictures that were read.
        sides: shortest, median and longest of their longer sides, in pixels.
        problems: a sentence for each problem.
    """

    dataset: spec.Dataset
    images: dict[str, dict[str, int]]
    splits: dict[str, int]
    annotated: int
    objects: dict[str, list[str]]
    looked_at: int
    sides: tuple[int, int, int]
    problems: list[str]

    def in_split(self, split: str) -> int:
        """Count the images of a split."""
        return self.splits.get(split, 0)

    @property
    def total(self) -> int:
        """The number of images."""
        return sum(self.splits.values())


# ---- finding pictures and annotations --------------------------------------------------------


def find_source(place: str) -> spec.Source:
    """Return the source that describes the pictures at a path.

    A file is a CSV or Parquet manifest, a list, or one of KINDS, of which there may be a folder. A
    folder holds `<class>/` or `images/<class>/`,
    or one of these in a folder for each split. Images without labels are in a folder, or found by a
    pattern, or a single picture.

    Raises:
        UserError: there is nothing at the path, or no such folder with images in it.
    """
    if re.search(r"\.tar$|\.tar[^/]*[}\]*]$", place, re.I):
        here = place if "://" in place else str(Path(place).expanduser().resolve())
        return spec.Source(kind="webdataset", path=here)
    path = Path(place).expanduser().resolve()
    suffix = path.suffix.lower()
    if suffix == ".csv" or (
        path.is_file() and suffix == ".parquet" and not holds_images(str(path))
    ):
        return spec.Source(kind="manifest", path=str(path))
    if suffix in KINDS and path.exists():
        return spec.Source(kind=KINDS[suffix], path=str(path))
    if glob.has_magic(place) or (path.is_file() and is_image(path.name)):
        return spec.Source(kind="glob", path=str(path))
    if path.is_file():
        return spec.Source(kind="list", path=str(path), root=str(path.parent))
    if not path.is_dir():
        raise UserError(
            f"there is no folder {place}: give the folder that holds a folder per class"
        )
    named = [f for f in _folders(path) if re.fullmatch(IMAGES_FOLDER, f.name, re.I)]
    for root in (*named, path):
        if splits := _splits(root):
            return spec.Source(kind="folder", path=splits)
        if any(_holds_images(folder) for folder in _folders(root)):
            return spec.Source(kind="folder", path=str(root))
    for root in (*named, path):
        if any(is_image(file.name) for file in root.iterdir()):
            return spec.Source(kind="folder", path=str(root))
    kinds = {
        KINDS[suffix] for name in _peek(path) if (suffix := Path(name).suffix.lower()) in KINDS
    }
    if len(kinds) == 1:
        return spec.Source(kind=kinds.pop(), path=str(path))
    raise UserError(
        f"{place} holds no class folders with images in them: it must look like "
        f"{place}/<class>/picture.jpg"
    )


def find_annotations(source: spec.Source) -> list[spec.Annotations]:
    """Return possible annotations near a folder: COCO files, folders of VOC XML or of masks."""
    if source.kind != "folder":
        return []
    roots = [source.path] if isinstance(source.path, str) else list(source.path.values())
    images = [Path(root) for root in roots]
    around = images[0].parent
    beside = [f for f in _folders(around) if f not in images and _sounds_annotated(f, images[0])]
    annotations: list[spec.Annotations] = [
        spec.Annotations(kind="coco", path=str(file))
        for place in (around, images[0], *beside)
        for file in sorted(place.glob("*.json"))
        if _looks_like_coco(file)
    ]
    for folder in (*beside, images[0]):
        suffixes = {Path(name).suffix.lower() for name in _peek(folder)}
        if ".xml" in suffixes:
            annotations.append(spec.Annotations(kind="voc", path=str(folder)))
        elif suffixes == {".png"} and folder in beside:
            annotations.append(spec.Annotations(kind="masks", path=str(folder)))
    return annotations


def _sounds_annotated(folder: Path, images: Path) -> bool:
    words = r"annot|xml|label|box|mask|voc|coco|seg|truth"
    return folder.name.startswith(images.name) or bool(re.search(words, folder.name, re.I))


def choose_annotations(dataset: spec.Dataset) -> spec.Annotations | None:
    """Return the annotations near a data set that fit most images; None where none fit any."""
    best, most = None, 0
    for candidate in find_annotations(dataset.source):
        try:
            rows = _plan(dataset.model_copy(update={"annotations": candidate}))
        except UserError:
            continue
        fitting = sum(bool(row["shard"] and row["annotation_path"]) for row in rows)
        if fitting > most:
            best, most = candidate, fitting
    return best


def _splits(root: Path) -> dict[spec.Split, str]:
    """Return the folders of splits in a folder; none unless there are `train` and another."""
    names = [folder.name for folder in _folders(root)]
    splits = splits_in(LocalFileSystem(), str(root), names)
    return {split: str(root / name) for split, name in splits.items()}


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read the folder {root}: {error.strerror}") from error


def _peek(folder: Path) -> list[str]:
    files = (name for _, _, names in os.walk(folder) for name in names if name[0] != ".")
    return list(islice(files, PEEKED))


def _holds_images(folder: Path) -> bool:
    return any(is_image(name) for name in _peek(folder))


def _looks_like_coco(file: Path) -> bool:
    """Say whether a JSON file begins with keys of COCO; the rest is not read, it can be large."""
    try:
        with file.open("rb") as stream:
            start = stream.read(4096)
    except OSError:
        return False
    keys = rb'^\s*\{\s*"(info|licenses|images|annotations|categories|type)"'
    return bool(re.match(keys, start))


# ---- reading pictures ------------------------------------------------------------------------


def survey(dataset: spec.Dataset, progress: Callable[[int, int], None] | None = None) -> Survey:
    """List a data set as for shards, and read some pictures (READ at most), in random order.

    Args:
        dataset: the section of a spec.
        progress: called with the number of pictures that are read, and of those to read.

    Raises:
        UserError: the source or the annotations cannot be listed.
    """
    images: dict[str, Counter[str]] = defaultdict(Counter)
    splits: Counter[str] = Counter()
    left_out: dict[tuple[str, str], _LeftOut] = defaultdict(_LeftOut)
    annotated = 0
    sample: list[dict[str, Any]] = []
    remarks: list[str] = []
    for row in _plan(dataset, remarks):
        if not row["shard"]:
            left_out[row["kind"], row["reason"]].add(row["path"])
            continue
        splits[row["split"]] += 1
        for label in each_label(row["label"]) or [UNLABELLED]:
            images[label][row["split"]] += 1
        annotated += bool(row["annotation_path"])
        sample.append(row)
        if len(sample) >= 2 * READ:
            sample = sorted(sample, key=lambda row: row["rank"])[:READ]
    sample = sorted(sample, key=lambda row: row["rank"])[:READ]
    source, annotations = open_source(dataset.source), open_annotations(dataset.annotations)
    with (
        source.reading(sample) as read,
        ThreadPoolExecutor(thread_name_prefix="look") as pool,
    ):
        seen = _Seen(annotations, read)
        for number, look in enumerate(pool.map(seen.look, sample), start=1):
            seen.add(look)
            if progress:
                progress(number, len(sample))
    counts = {label: dict(images[label]) for label in sorted(images)}
    problems = [
        *(f"{remark[0].upper()}{remark[1:]}." for remark in remarks),
        *(found.sentence(*why) for why, found in sorted(left_out.items())),
        *seen.problems(),
        *_problems_of_classes(counts),
    ]
    sides = sorted(seen.sides) or [0]
    return Survey(
        dataset,
        counts,
        dict(splits),
        annotated,
        {label: [name for name, _ in found.most_common()] for label, found in seen.objects.items()},
        len(sample),
        (sides[0], round(median(sides)), sides[-1]),
        problems,
    )


def _plan(dataset: spec.Dataset, remarks: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of the plan of a data set's shards, which is not stored.

    Args:
        dataset: the section of a spec.
        remarks: list to which the remarks of the source are added.
    """
    with temporary_folder() as scratch:
        lake = Lake(scratch)
        plan = plan_shards(dataset, lake)
        if remarks is not None:
            remarks += plan.remarks
        with lake.open(dataset_file(dataset.name, "plan.parquet")) as stream:
            for batch in pq.ParquetFile(stream).iter_batches():
                yield from batch.to_pylist()


@dataclass
class _LeftOut:
    """The inputs that are rejected for one reason: their number and examples."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(path)

    def sentence(self, kind: str, reason: str) -> str:
        more = " and so on" if self.count > len(self.examples) else ""
        things = f"{self.count} {kind}{'' if self.count == 1 else 's'}"
        return f"{things} left out ({reason}): {', '.join(self.examples)}{more}."


@dataclass(frozen=True)
class _Look:
    """The findings about one picture; `broken` has why it or its annotation cannot be used."""

    row: dict[str, Any]
    size: tuple[int, int] = (0, 0)
    digest: str = ""
    boxes: tuple[str, ...] = ()
    broken: str = ""
    annotation_broken: str = ""


@dataclass
class _Seen:
    """The findings about all pictures that were read so far."""

    annotations: Annotations | None
    read: Callable[[str], bytes]
    sides: list[int] = field(default_factory=list)
    objects: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    broken: list[str] = field(default_factory=list)
    annotations_broken: list[str] = field(default_factory=list)
    huge: list[str] = field(default_factory=list)
    first: dict[str, dict[str, Any]] = field(default_factory=dict)  # first row by hash of content
    copies: list[tuple[str, str, bool]] = field(default_factory=list)

    def look(self, row: dict[str, Any]) -> _Look:
        try:
            data = self.read(row["location"])
            picture = apart(examine, data, row["path"])
        except BrokenImage as error:
            return _Look(row, broken=error.reason)
        except OSError as error:
            return _Look(row, broken=error.strerror or str(error))
        names, problem = [], ""
        if self.annotations and row["annotation_path"] is not None:
            try:
                boxes, _ = self.annotations.annotate(listed_of(row), picture, row["label"] or "")
                names = [box["name"] for box in boxes]
            except (BrokenAnnotation, OSError) as error:
                problem = str(error)
        digest = hashlib.sha256(data).hexdigest()
        return _Look(row, picture.size, digest, tuple(names), annotation_broken=problem)

    def add(self, look: _Look) -> None:
        path = look.row["path"]
        if look.broken:
            self.broken.append(f"{path} ({look.broken})")
            return
        if look.annotation_broken:
            self.annotations_broken.append(
                f"{look.row['annotation_path']} ({look.annotation_broken})"
            )
        self.sides.append(max(look.size))
        if max(look.size) > HUGE:
            self.huge.append(f"{path} ({look.size[0]}×{look.size[1]})")
        for label in each_label(look.row["label"]) or [UNLABELLED]:
            self.objects[label].update(look.boxes)
        same = self.first.setdefault(look.digest, look.row)
        if same is not look.row:
            apart = same["split"] != look.row["split"]
            self.copies.append((path, same["path"], apart))

    def problems(self) -> Iterator[str]:
        if self.broken:
            yield f"{_number(self.broken, 'image')} cannot be read: {_some(self.broken)}."
        if self.annotations_broken:
            broken = self.annotations_broken
            yield f"{_number(broken, 'annotation')} cannot be read: {_some(broken)}."
        if self.copies:
            pairs = [f"{one} = {other}" for one, other, _ in self.copies]
            apart = sum(apart for _, _, apart in self.copies)
            leak = (
                f"; {apart} in another split than the first, which spoils the test" if apart else ""
            )
            yield f"{_number(pairs, 'image')} repeated byte for byte{leak}: {_some(pairs)}."
        if self.huge:
            yield (
                f"{_number(self.huge, 'image')} longer than {HUGE} pixels, which decode slowly; "
                f"with `max_size`, shards hold smaller copies: {_some(self.huge)}."
            )


def _problems_of_classes(images: dict[str, dict[str, int]]) -> Iterator[str]:
    if set(images) == {UNLABELLED}:
        yield "The images have no labels, so that the accuracy of a classifier will not be known."
        return
    if len(images) == 1:
        yield "There is only one class, and a classifier needs two: give the folder above it."
    few = [f"{label} ({sum(c.values())})" for label, c in images.items() if sum(c.values()) < FEW]
    if few:
        yield f"{_number(few, 'class', 'classes')} with fewer than {FEW} images: {_some(few)}."
    splits = sorted({split for counts in images.values() for split in counts})
    for split in splits:
        without = [label for label, counts in images.items() if not counts.get(split)]
        if without:
            classes = _number(without, "class", "classes")
            yield f"{classes} without images in {split}: {_some(without)}."
    alike: dict[str, list[str]] = defaultdict(list)
    for label in images:
        alike[re.sub(r"[\W_]+", "", label).casefold().removesuffix("s")].append(label)
    for labels in alike.values():
        if len(labels) > 1:
            yield f"The class folders {' and '.join(labels)} may be one class under other names."


def _number(things: list[Any], one: str, many: str = "") -> str:
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (" and so on" if len(names) > EXAMPLES else "")
