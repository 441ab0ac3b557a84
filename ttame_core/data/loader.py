"""Reading of shards: WebDataset tars are decoded to batches of tensors ahead of their use.

The order of the samples follows from the seed and the epoch alone, not from the number of workers,
so that an interrupted training continues with the very next batch.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import IO, Any, TypeVar

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from webdataset.tariterators import group_by_keys, tar_file_iterator

from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.annotations.base import CORNERS
from ttame_core.data.images import decode_for
from ttame_core.data.labels import UNKNOWN
from ttame_core.data.objects import object_pixels
from ttame_core.data.sources.containers import WHERE, parts_of, read_inside
from ttame_core.errors import UserError
from ttame_core.lake import Lake, shard_rows, shard_tar

SHUFFLE_BUFFER = 1000  # raw samples; a shard's samples are in random order already

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Samples as the classifier sees them.

    Attributes:
        keys: names of the samples, distinct in a data set.
        images: (B, C, H, W), uint8 or float32 in [0, 1].
        labels: (B, L) int64, the labels of each image, after which UNKNOWN fills the row.
        boxes: for each image (N, 4) float32, x0, y0, x1, y1 in pixels of the classifier's view.
        masks: for each image (H, W) uint8, or None where there is no mask: 0 for background, else
            the number of the object, or in an image of several labels, the place of the object's
            label in `labels`, from 1.
        box_labels: for each image (N,) int64, the places in `labels` of the boxes' labels, from 0;
            None where the image has one label or none, and its objects are those of any class. An
            empty list stands for None for all images.
    """

    keys: list[str]
    images: Tensor
    labels: Tensor
    boxes: list[Tensor]
    masks: list[Tensor | None]
    box_labels: list[Tensor | None] = field(default_factory=list)

    @classmethod
    def bare(cls, keys: Sequence[str], images: Tensor) -> Batch:
        """Return samples without labels and annotations."""
        count = len(keys)
        labels = torch.full((count, 1), UNKNOWN)
        return cls(list(keys), images, labels, [torch.zeros(0, 4)] * count, [None] * count)

    def __len__(self) -> int:
        return len(self.keys)

    def first(self, count: int) -> Batch:
        """Return the first `count` samples."""
        return Batch(
            self.keys[:count],
            self.images[:count],
            self.labels[:count],
            self.boxes[:count],
            self.masks[:count],
            self.box_labels[:count],
        )

    def at(self, positions: Sequence[int]) -> Batch:
        """Return the samples at these positions, which may repeat."""
        return Batch(
            [self.keys[p] for p in positions],
            self.images[positions],
            self.labels[positions],
            [self.boxes[p] for p in positions],
            [self.masks[p] for p in positions],
            [self.box_labels[p] for p in positions] if self.box_labels else [],
        )

    @cached_property
    def objects(self) -> Tensor:
        """Return (B, H, W) bool: pixels of an image's mask, or of its boxes where it has none."""
        return object_pixels(self.boxes, self.masks, tuple(self.images.shape[-2:]))

    def boxes_of(self, position: int, target: int) -> Tensor:
        """Return the boxes (N, 4) of a class in the image at a position.

        The boxes of an image with one label, or none, are returned for every class.
        """
        boxes = self.boxes[position]
        places = self.box_labels[position] if self.box_labels else None
        return boxes if places is None else boxes[self.labels[position][places] == target]

    def mask_of(self, position: int, target: int) -> Tensor | None:
        """Return the mask (H, W) of a class in the image at a position, as `boxes_of` the boxes."""
        mask = self.masks[position]
        if mask is None or not self.box_labels or self.box_labels[position] is None:
            return mask
        places = (self.labels[position] == target).nonzero().flatten() + 1
        return torch.isin(mask, places.to(mask.dtype)).to(mask.dtype)

    def objects_of(self, positions: Sequence[int], targets: Sequence[int]) -> Tensor:
        """Return the pixels of classes in images, (R, H, W) bool.

        Args:
            positions: R positions of images in the batch.
            targets: R classes.
        """
        if all(places is None for places in self.box_labels):
            return self.objects[positions]
        boxes = [self.boxes_of(*pair) for pair in zip(positions, targets, strict=True)]
        masks = [self.mask_of(*pair) for pair in zip(positions, targets, strict=True)]
        return object_pixels(boxes, masks, tuple(self.images.shape[-2:]))

    def float_images(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the images (B, C, H, W) as float32 in [0, 1] on `device`."""
        images = self.images.to(device, non_blocking=True)
        return images if images.is_floating_point() else images.float().div_(255)


def read_shard(lake: Lake, dataset: str, shard: str) -> Iterator[dict[str, Any]]:
    """Yield the raw samples of a shard in stored order.

    A sample is a mapping with `__key__`, the image's bytes under their suffix, `json` with label
    and boxes, `mask.png` where there is one, and `__row__`, the sample's row in the shard's rows.

    Raises:
        UserError: the tar is not whole.
    """
    path = shard_tar(dataset, shard)
    rows = iter([r for r in lake.read_table(shard_rows(dataset, shard)).to_pylist() if r["sha256"]])
    try:
        with lake.open(path) as stream:
            for sample in group_by_keys(_members(stream, path)):
                row = next(rows, {"key": None})
                if sample["__key__"] != row["key"]:
                    raise ValueError(f"found {sample['__key__']}, not {row['key']}")
                yield {**sample, "__url__": lake.path(path), "__row__": row}
        if row := next(rows, None):
            raise ValueError(f"it ends before {row['key']}")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(
            f"shard {lake.path(path)} cannot be read ({error}): delete it and run `ttame shard`"
        ) from error


def _members(stream: IO[bytes], path: str) -> Iterator[dict[str, Any]]:
    """Yield the members of a tar, or raise ValueError where the tar is cut or broken.

    Python reads a tar that is cut, or has a broken header, as if it ended there, without an error.
    So the last member must be followed by the zeros that end a tar, and by nothing else.
    """
    end = 0
    for member in tar_file_iterator(stream):
        end += tarfile.BLOCKSIZE * (1 + -(-len(member["data"]) // tarfile.BLOCKSIZE))
        yield {**member, "__url__": path}
    stream.seek(end)
    rest = stream.read(2 * tarfile.RECORDSIZE)
    if len(rest) < 2 * tarfile.BLOCKSIZE or any(rest):
        raise ValueError(f"it breaks off after {end} bytes")


def image_bytes(sample: dict[str, Any]) -> bytes:
    """Return the bytes of a raw sample's image.

    Raises:
        UserError: there is no image, or it is not as it was stored, there or in the file in which
            it stays.
        StoreAway: the store of that file does not answer.
    """
    if WHERE in sample:
        return _bytes_elsewhere(sample)
    for suffix, data in sample.items():
        if not suffix.startswith("__") and suffix not in ("json", "mask.png"):
            if hashlib.sha256(data).hexdigest() == sample["__row__"]["sha256"]:
                return data
            raise _damaged(sample, "its image is not as it was stored")
    raise _damaged(sample, "it has no image")


def _bytes_elsewhere(sample: dict[str, Any]) -> bytes:
    """Return the bytes of a picture that stays in the file it came in."""
    try:
        location = sample[WHERE].decode()
        container, _ = parts_of(location)
    except ValueError as error:
        raise _damaged(sample, str(error)) from error
    try:
        data, reason = read_inside(location), "other bytes lie in its place"
    except OSError as error:
        data, reason = b"", error.strerror or str(error)
    if hashlib.sha256(data).hexdigest() == sample["__row__"]["sha256"]:
        return data
    path = sample["__row__"]["path"]
    raise UserError(
        f"{container} is not as it was when its pictures were indexed ({path}: {reason}): put it "
        f"back as it was, or delete the shard {sample['__url__']} and run `ttame shard`, which "
        "indexes it anew"
    )


def _annotation(sample: dict[str, Any]) -> tuple[list[int], list[dict[str, Any]]]:
    """Return labels and boxes of a raw sample; raises UserError if they are not as stored."""
    row = sample["__row__"]
    try:
        about = json.loads(sample["json"])
        label, boxes = about["label"], about["boxes"]
        labels = label if isinstance(label, list) else [label] if label is not None else []
        own, stored = (
            np.array([[box[c] for c in CORNERS] for box in some], np.float32)
            for some in (boxes, row["boxes"])
        )
        if labels != row["labels"] or not np.array_equal(own, stored):
            raise ValueError("its label or its boxes are not as they were stored")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(sample, str(error)) from error
    return labels, boxes


def _mask(sample: dict[str, Any]) -> Image.Image:
    try:
        png = sample["mask.png"]
        Image.open(io.BytesIO(png), formats=["PNG"]).verify()  # checks the checksums in a PNG
        mask = Image.open(io.BytesIO(png), formats=["PNG"])
        mask.load()
    except Exception as error:  # whatever a damaged file leads the decoder to
        raise _damaged(sample, f"its mask cannot be read: {error}") from error
    return mask


def _damaged(sample: dict[str, Any], what: str) -> UserError:
    return UserError(
        f"shard {sample['__url__']} is damaged at sample {sample['__key__']} ({what}): "
        "delete it and run `ttame shard`"
    )


def load_batches(
    lake: Lake,
    dataset: str,
    shards: Sequence[str],
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int,
    *,
    shuffle: tuple[int, int] | None = None,
    skip: int = 0,
    drop_last: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Yield batches of the samples of shards.

    Memory holds a few batches and the shuffle buffer, whatever the size of the data is.

    Args:
        lake: the workspace.
        dataset: name of the data set.
        shards: names of the shards.
        preprocessing: the classifier's, which makes its view of a picture.
        batch_size: B, number of images in a batch.
        workers: number of threads that decode images.
        shuffle: (seed, epoch) that the order follows from; None for the stored order.
        skip: number of batches at the start that are left out without decoding them.
        drop_last: whether a last batch with fewer images is left out.
        part: (i, n) for the i-th of n equal shares of every batch, i from 0.

    Raises:
        UserError: a shard is damaged.
    """
    samples = chain.from_iterable(
        read_shard(lake, dataset, shard) for shard in _order(shards, shuffle)
    )
    if shuffle is not None:
        rng = random.Random("{}/{}".format(*shuffle))
        samples = wds.shuffle(SHUFFLE_BUFFER, rng=rng)(samples)
    groups = (g for g in _batched(samples, batch_size) if not drop_last or len(g) == batch_size)
    ahead = max(2, -(-2 * workers // batch_size))

    def decode(sample: dict[str, Any]) -> tuple[Any, ...]:
        return _decode(sample, preprocessing)

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        pending: deque[list[Any]] = deque()
        for group in islice(groups, skip, None):
            pending.append([pool.submit(decode, sample) for sample in group[part[0] :: part[1]]])
            if len(pending) > ahead:
                yield _collate([future.result() for future in pending.popleft()])
        while pending:
            yield _collate([future.result() for future in pending.popleft()])


def load_samples(
    lake: Lake,
    dataset: str,
    keys: Mapping[str, Collection[str]],
    preprocessing: Preprocessing,
) -> Batch:
    """Return a few samples, by their keys, as one batch in stored order.

    Args:
        lake: the workspace.
        dataset: name of the data set.
        keys: keys of the samples, by the name of their shard.
        preprocessing: the classifier's, which makes its view of a picture.

    Raises:
        UserError: a shard is damaged.
    """
    return _collate(
        _decode(sample, preprocessing)
        for shard, wanted in sorted(keys.items())
        for sample in read_shard(lake, dataset, shard)
        if sample["__key__"] in wanted
    )


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def _order(shards: Sequence[str], shuffle: tuple[int, int] | None) -> list[str]:
    if shuffle is None:
        return list(shards)
    return [shards[i] for i in np.random.default_rng(shuffle).permutation(len(shards))]


def _decode(sample: dict[str, Any], preprocessing: Preprocessing) -> tuple[Any, ...]:
    key = sample["__key__"]
    image = decode_for(image_bytes(sample), key, preprocessing.shape[0])
    size = image.size if isinstance(image, Image.Image) else image[0].size
    labels, boxes = _annotation(sample)
    mask, places = None, None
    if "mask.png" in sample:
        mask = preprocessing.mask(_mask(sample))
    own = [boxes]
    if len(labels) > 1:
        own = [[box for box in boxes if box["label"] == label] for label in labels]
    parts = [preprocessing.boxes(_corners(some), size) for some in own]
    if len(labels) > 1:
        counts = torch.tensor([len(part) for part in parts])
        places = torch.arange(len(labels)).repeat_interleave(counts)
        if mask is not None:
            of_objects = [0, *(1 + labels.index(box["label"]) for box in boxes)]
            mask = torch.tensor(of_objects, dtype=mask.dtype)[mask.long()]
    return key, preprocessing.pixels(image), torch.tensor(labels), torch.cat(parts), mask, places


def _corners(boxes: list[dict[str, Any]]) -> Tensor:
    corners = [[box[corner] for corner in CORNERS] for box in boxes]
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def _collate(samples: Iterable[tuple[Any, ...]]) -> Batch:
    keys, images, labels, *annotations = zip(*samples, strict=True)
    most = torch.full((1,), UNKNOWN)  # a row has at least one column
    rows = pad_sequence([most, *labels], batch_first=True, padding_value=UNKNOWN)[1:].long()
    return Batch(list(keys), torch.stack(images), rows, *map(list, annotations))
