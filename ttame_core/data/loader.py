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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import IO, Any, TypeVar

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_iterator

from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.images import decode_image
from ttame_core.data.labels import UNKNOWN
from ttame_core.data.objects import object_pixels
from ttame_core.errors import UserError
from ttame_core.lake import Lake, shard_rows, shard_tar

SHUFFLE_BUFFER = 1000  # raw samples; a shard's samples are in random order already
CORNERS = ("x0", "y0", "x1", "y1")

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Samples as the classifier sees them.

    Attributes:
        keys: names of the samples, distinct in a data set.
        images: (B, 3, H, W), uint8 or float32 in [0, 1].
        labels: (B,) int64, UNKNOWN where there is no label.
        boxes: for each image (N, 4) float32, x0, y0, x1, y1 in pixels of the classifier's view.
        masks: for each image (H, W) uint8 object numbers, or None where there is no mask.
    """

    keys: list[str]
    images: Tensor
    labels: Tensor
    boxes: list[Tensor]
    masks: list[Tensor | None]

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
        )

    def at(self, positions: Sequence[int]) -> Batch:
        """Return the samples at these positions, which may repeat."""
        return Batch(
            [self.keys[p] for p in positions],
            self.images[positions],
            self.labels[positions],
            [self.boxes[p] for p in positions],
            [self.masks[p] for p in positions],
        )

    @cached_property
    def objects(self) -> Tensor:
        """Return (B, H, W) bool: pixels of an image's mask, or of its boxes where it has none."""
        return object_pixels(self.boxes, self.masks, tuple(self.images.shape[-2:]))

    def float_images(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the images (B, 3, H, W) as float32 in [0, 1] on `device`."""
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
        UserError: there is no image, or it is not as it was stored.
    """
    for suffix, data in sample.items():
        if not suffix.startswith("__") and suffix not in ("json", "mask.png"):
            if hashlib.sha256(data).hexdigest() == sample["__row__"]["sha256"]:
                return data
            raise _damaged(sample, "its image is not as it was stored")
    raise _damaged(sample, "it has no image")


def _annotation(sample: dict[str, Any]) -> tuple[int, list[list[float]]]:
    """Return label and boxes of a raw sample; raises UserError if they are not as stored."""
    row = sample["__row__"]
    try:
        about = json.loads(sample["json"])
        label, boxes = about["label"], [[box[c] for c in CORNERS] for box in about["boxes"]]
        stored = np.array([[box[c] for c in CORNERS] for box in row["boxes"]], np.float32)
        if label != row["label"] or not np.array_equal(np.array(boxes, np.float32), stored):
            raise ValueError("its label or its boxes are not as they were stored")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(sample, str(error)) from error
    return UNKNOWN if label is None else label, boxes


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
    image = decode_image(image_bytes(sample), key)
    label, corners = _annotation(sample)
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    mask = None
    if "mask.png" in sample:
        mask = preprocessing.mask(_mask(sample))
    return (
        key,
        preprocessing.pixels(image),
        label,
        preprocessing.boxes(boxes, image.size),
        mask,
    )


def _collate(samples: Iterable[tuple[Any, ...]]) -> Batch:
    keys, images, labels, boxes, masks = zip(*samples, strict=True)
    return Batch(list(keys), torch.stack(images), torch.tensor(labels), list(boxes), list(masks))
