"""Inputs as no one should send them: mutations of real files, through every reader of the data.

A reader takes an input or gives a reason; whatever else it does, crash, hang or grow, is a
problem. Each input follows from the seed and its number alone.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import struct
import tempfile
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ttame_core import spec
from ttame_core.audits.specification import open_spec
from ttame_core.data.annotations.base import BrokenAnnotation, Picture, clip, mask_boxes
from ttame_core.data.annotations.coco import Coco
from ttame_core.data.annotations.masks import read_mask
from ttame_core.data.annotations.voc import voc_boxes
from ttame_core.data.images import BrokenImage, decode_image, stored
from ttame_core.data.sources import open_source
from ttame_core.errors import UserError

MEMORY = 8 * 2**30  # bytes of address space that a reader may use
SECONDS = 30  # for one input; the process ends after that
PICTURE = Picture((48, 32), (48, 32), 1)

# ---- real files ------------------------------------------------------------------------------


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _pictures() -> list[bytes]:
    """Files of every format that is read, in its several kinds."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 200, 48 * 32 * 3).reshape(32, 48, 3) + rng.integers(0, 40, (32, 48, 3))
    image = Image.fromarray(smooth.astype(np.uint8))
    clear = image.copy()
    clear.putalpha(128)
    deep = Image.fromarray(rng.integers(0, 65536, (32, 48)).astype(np.uint16))
    real = Image.fromarray(rng.random((32, 48), np.float32))
    frames = {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    return [
        _encoded(image, "JPEG", exif=exif),
        _encoded(image, "JPEG", progressive=True, icc_profile=b"x" * 200),
        _encoded(image.convert("CMYK"), "JPEG"),
        _encoded(image.convert("L"), "JPEG"),
        _encoded(image, "PNG", exif=exif),
        _encoded(clear, "PNG"),
        _encoded(image.convert("P"), "PNG", transparency=0),
        _encoded(deep, "PNG"),
        _encoded(image.convert("1"), "PNG"),
        _encoded(image, "WEBP"),
        _encoded(clear, "WEBP", lossless=True, **frames),
        _encoded(image, "GIF", **frames),
        _encoded(image.convert("P"), "GIF", transparency=3),
        _encoded(image, "BMP"),
        _encoded(image.convert("P"), "BMP"),
        *(_encoded(image, "TIFF", compression=c) for c in ("raw", "tiff_lzw", "tiff_deflate")),
        _encoded(image, "TIFF", compression="jpeg"),
        _encoded(image.convert("1"), "TIFF", compression="group4"),
        _encoded(deep, "TIFF"),
        _encoded(real, "TIFF"),
    ]


def _masks() -> list[bytes]:
    numbers = np.zeros((32, 48), np.uint8)
    numbers[4:20, 6:30], numbers[22:30, 30:40] = 1, 2
    palette = Image.fromarray(numbers, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    return [_encoded(m, "PNG") for m in (Image.fromarray(numbers), palette, palette.convert("RGB"))]


VOC = b"""<annotation><folder>f</folder><filename>a.jpg</filename>
<size><width>48</width><height>32</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
</object><object><name>dog</name><difficult>0</difficult><bndbox><xmin>10.5</xmin><ymin>1</ymin>
<xmax>40</xmax><ymax>12</ymax></bndbox></object></annotation>"""
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a/p.jpg"}, {"id": 2, "file_name": "a/q.jpg"}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [1, 2.5, 10, 5], "iscrowd": 0},
            {"image_id": 2, "category_id": 1, "bbox": [0, 0, 48, 32]},
        ],
    }
).encode()
MANIFEST = b'path,label,split,extra\na/p.jpg,cat,train,1\na/q.jpg,dog,test,2\n"b,c.jpg",3,val,\n'
LIST = b"a/p.jpg 0\na/q q.jpg 1\nb/r.jpg 2\n"

# ---- mutations -------------------------------------------------------------------------------

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 30_000, 0x7FFFFFFF, 0xFFFFFFFF)
WORDS = (
    *(b"", b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b"null", b"true", b"[]", b"{}", b'""'),
    *(b"9" * 5000, b"[" * 100_000, b'{"a":' * 50_000, b"<object>" * 20_000, b"\xff\xfe", b"\0"),
    *(b"\n", b",", b'"', b"<", b">", b"&lol;", b"../../etc/passwd", b"\\u0000", b"\xed\xa0\x80"),
    b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>',
)


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The file with a few changes of the kinds that disks, networks and enemies make."""
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        start = rng.randrange(len(broken) + 1)
        end = min(len(broken), start + rng.choice((1, 2, 4, 16, 100)))
        change = rng.randrange(8)
        if change == 0 and broken:  # a flipped bit
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        elif change == 1:  # cut off
            del broken[start:]
        elif change == 2:
            del broken[start:end]
        elif change == 3:  # said twice
            broken[end:end] = broken[start:end]
        elif change == 4:  # the beginning of one, the end of another
            other = rng.choice(others)
            broken[start:] = other[rng.randrange(len(other)) :]
        elif change == 5:  # another number: a size, an offset, a count
            number, width = rng.choice(NUMBERS), rng.choice((1, 2, 4))
            order = rng.choice(("big", "little"))
            broken[start : start + width] = (number % 256**width).to_bytes(width, order)
        elif change == 6:
            broken[start:end] = rng.choice(WORDS)
        else:
            broken[start:end] = rng.randbytes(end - start)
    if rng.random() < 0.5:
        _seal(broken)
    return bytes(broken)


def _seal(data: bytearray) -> None:
    """Make the checksums of a PNG right again, so that more of its reader is reached."""
    place = 8
    while data.startswith(b"\x89PNG") and place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4


# ---- readers ---------------------------------------------------------------------------------


def read_picture(data: bytes, folder: Path) -> None:
    image = decode_image(data, "a")
    size, orientation = stored(data, "a")
    assert image.mode == "RGB"
    assert image.size in (size, size[::-1])
    assert orientation in range(1, 9)


def read_voc(data: bytes, folder: Path) -> None:
    for box in voc_boxes(data, PICTURE):
        _in_the_picture(clip(box, PICTURE.size))


def read_png_mask(data: bytes, folder: Path) -> None:
    mask = read_mask(data, PICTURE)
    assert mask.shape == (32, 48)
    for box in mask_boxes(mask, "a"):
        _in_the_picture(clip(box, PICTURE.size))


def _in_the_picture(box: dict[str, float]) -> None:
    assert 0 <= box["x0"] < box["x1"] <= PICTURE.size[0]
    assert 0 <= box["y0"] < box["y1"] <= PICTURE.size[1]


def read_coco(data: bytes, folder: Path) -> None:
    path = folder / "coco.json"
    path.write_bytes(data)
    reader = Coco(Coco.Settings(path=str(path)))
    for listed in reader.listed():
        assert isinstance(listed.name, str)
        boxes, mask = ([], None) if listed.reason else reader.annotate(listed, PICTURE, "a")
        assert mask is None or mask.shape == (32, 48)
        for box in boxes:
            _in_the_picture(clip(box, PICTURE.size))


def _read_source(source: dict[str, str], data: bytes, folder: Path) -> None:
    path = Path(source["path"])
    path.write_bytes(data)
    dataset = spec.Dataset(name="d", source={"root": str(folder), **source})  # type: ignore[arg-type]
    for entry in open_source(dataset.source).entries():
        assert entry.location or entry.reason


def read_manifest(data: bytes, folder: Path) -> None:
    names = {"image_column": "path", "label_column": "label", "split_column": "split"}
    _read_source({"kind": "manifest", "path": f"{folder}/m.csv", **names}, data, folder)


def read_list(data: bytes, folder: Path) -> None:
    _read_source({"kind": "list", "path": f"{folder}/list.txt"}, data, folder)


@dataclass(frozen=True)
class Reader:
    """share: of all inputs."""

    read: Callable[[bytes, Path], None]
    files: list[bytes]
    share: float


READERS = {
    "pictures": Reader(read_picture, _pictures(), 0.3),
    "VOC": Reader(read_voc, [VOC], 0.15),
    "COCO": Reader(read_coco, [COCO], 0.1),
    "masks": Reader(read_png_mask, _masks(), 0.15),
    "manifests": Reader(read_manifest, [MANIFEST], 0.05),
    "lists": Reader(read_list, [LIST], 0.05),
}


def _any_format() -> list[bytes]:
    """Files of every format that Pillow writes, which are far more than are read."""
    Image.init()
    image = Image.effect_noise((48, 32), 60)
    files = []
    for kind in sorted(Image.SAVE):
        for mode in ("RGB", "L", "1"):
            with suppress(Exception), warnings.catch_warnings(action="ignore"):
                files.append(_encoded(image.convert(mode), kind))
                break
    return files


def read_spec(data: bytes, folder: Path) -> None:
    """Open a spec; no secret may come out of it, and nothing that it names may run."""
    path, mark = folder / "audit.yaml", folder / "mark"
    path.write_bytes(data.replace(b"MARK", str(mark).encode()))
    os.environ["TTAME_TOKEN"] = SECRET
    try:
        audit = open_spec(path)
        assert SECRET not in audit.model_dump_json()
    except UserError as error:
        if SECRET in str(error):
            raise ValueError("a secret in a message") from error
        raise
    finally:
        assert not mark.exists()


SECRET = "c1d92b"
SPEC = b"""name: small
dataset: {name: drawn, source: {kind: shapes, train: 8, val: 4, test: 4, size: 32, seed: 1}}
backbones:
  - {model: resnet18, name: one, pretrained: false, taps: [layer4], args: {in_chans: 3}}
  - model: resnet10t
    fit: {epochs: 2, learning_rate: 1e-3, batch_size: 8}
explainers: [center, {method: rise, settings: {masks: 10}}]
training: {epochs: 1, learning_rate: 0.001}
evaluation: {metrics: [{family: confidence}, {family: localization}]}
"""
SPECS = [
    SPEC,
    SPEC.replace(b"resnet18", b'"os:system"').replace(b"{in_chans: 3}", b'{command: "touch MARK"}'),
    SPEC.replace(b"small", b"${TTAME_TOKEN}"),
    SPEC.replace(b"small", b"!!python/object/apply:os.system ['touch MARK']"),
    b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (n + 1, n + 1, b", ".join([b"*%c" % n] * 9)) for n in range(97, 106)
    ),
    b"name: &n {name: *n}\n" + SPEC,
    b"[" * 5000,
    b"- " * 20000,
    b"{a: " * 3000,
    b"name: " + b"9" * 100_000,
]

HOSTILE = {
    "any format": Reader(read_picture, _any_format(), 0.2),
    "specs": Reader(read_spec, SPECS, 0.01),
}
ALL_READERS = READERS | HOSTILE


def is_taken(kind: str, data: bytes, folder: Path) -> bool:
    """Whether a reader takes an input; False where it gives a reason. Raises anything else."""
    try:
        ALL_READERS[kind].read(data, folder)
    except (BrokenImage, BrokenAnnotation, UserError) as reason:
        if not str(reason):
            raise ValueError("a reason without words") from reason
        return False
    return True


def made(kind: str, seed: int, number: int) -> bytes:
    """One input."""
    files = ALL_READERS[kind].files
    rng = random.Random(f"{kind}/{seed}/{number}")
    return mutated(rng.choice(files), files, rng)


# ---- many of them ----------------------------------------------------------------------------


@dataclass
class Found:
    """What became of many inputs. memory: most that a reader's process held, MiB."""

    taken: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    memory: float = 0.0
    problems: list[str] = field(default_factory=list)


def fuzz(inputs: int, seed: int) -> Found:
    """Give each reader its share of the inputs, in a process that may crash."""
    found = Found()
    for kind, reader in ALL_READERS.items():
        first, last = 0, round(reader.share * inputs)
        while first < last:
            first = _part(kind, seed, first, last, found) + 1
    found.memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return found


def _part(kind: str, seed: int, first: int, last: int, found: Found) -> int:
    """Read inputs until one ends the process, or all are through; the number of the last one."""
    receive, send = os.pipe()
    pid = os.fork()
    if not pid:
        _read_all(kind, seed, range(first, last), send)
    os.close(send)
    number = first - 1
    with open(receive, "rb") as stream:
        while answer := stream.read(1):
            number += 1
            (found.taken if answer == b"+" else found.rejected)[kind] += 1
    _, status = os.waitpid(pid, 0)
    if ended := os.waitstatus_to_exitcode(status):
        number += 1
        words = signal.Signals(-ended).name if ended < 0 else "an error that is no reason"
        found.problems.append(f"{kind} {number} of seed {seed}: {words}")
    return number


def _read_all(kind: str, seed: int, numbers: range, send: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    errors = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what C libraries say of broken pictures
    try:
        with tempfile.TemporaryDirectory() as folder, open(send, "wb", buffering=0) as answers:
            for number in numbers:
                data = made(kind, seed, number)
                signal.alarm(SECONDS)
                answers.write(b"+" if is_taken(kind, data, Path(folder)) else b"-")
                signal.alarm(0)
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=errors)
        errors.flush()
        os._exit(1)
