"""Reading shards: everything once, in an order that only the seed and the epoch decide."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import PLAIN, shard_all

from ttame_core import spec
from ttame_core.data.images import decode_image
from ttame_core.data.loader import Batch, image_bytes, load_batches, read_shard
from ttame_core.errors import UserError
from ttame_core.lake import Lake, dataset_file, shard_tar

Drawn = tuple[Lake, str]
TRAIN = [f"train-{i:06d}" for i in range(4)]


def _batches(drawn: Drawn, **options: object) -> list[Batch]:
    options = {"batch_size": 6, "workers": 2} | options
    return list(load_batches(*drawn, TRAIN, PLAIN, **options))


def _keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_every_sample_once_as_the_index_says(drawn: Drawn) -> None:
    lake, name = drawn
    batches = _batches(drawn)
    assert [len(batch) for batch in batches] == [6] * 6 + [4]
    index = lake.read_table(dataset_file(name, "index.parquet")).to_pylist()
    labels = {row["key"]: row["label"] for row in index if row["split"] == "train"}
    found = torch.cat([batch.labels[:, 0] for batch in batches]).tolist()
    assert dict(zip(_keys(batches), found, strict=True)) == labels
    assert len(_keys(batches)) == len(labels) == 40


def test_pixels_boxes_and_masks_are_those_of_the_view(drawn: Drawn) -> None:
    lake, name = drawn
    (batch,) = load_batches(lake, name, TRAIN[:1], PLAIN, batch_size=16, workers=3)
    assert batch.images.shape == (len(batch), 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    for i, sample in enumerate(read_shard(lake, name, TRAIN[0])):
        image = decode_image(image_bytes(sample), "sample")
        assert torch.equal(batch.images[i], PLAIN.pixels(image))
        expected = [
            [box[c] for c in ("x0", "y0", "x1", "y1")]
            for box in json.loads(sample["json"])["boxes"]
        ]
        assert batch.boxes[i].tolist() == expected  # the view is the whole picture
        rows, columns = np.nonzero(batch.masks[i].numpy() == 1)  # the first object
        x0, y0, x1, y1 = expected[0]
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
    floats = batch.float_images()
    assert floats.dtype == torch.float32
    assert torch.equal((floats * 255).round().to(torch.uint8), batch.images)


def test_order_is_of_seed_and_epoch_not_of_workers(drawn: Drawn) -> None:
    first = _keys(_batches(drawn, shuffle=(0, 0)))
    assert _keys(_batches(drawn, shuffle=(0, 0), workers=1)) == first
    assert _keys(_batches(drawn, shuffle=(0, 0), workers=5)) == first
    stored = _keys(_batches(drawn))
    orders = [first, stored]
    orders += [_keys(_batches(drawn, shuffle=shuffle)) for shuffle in ((0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 4
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(stored))}


@pytest.mark.parametrize("skip", [0, 1, 4, 6, 9])
def test_a_resumed_epoch_goes_on_with_the_very_next_batch(drawn: Drawn, skip: int) -> None:
    whole = _batches(drawn, shuffle=(3, 2), drop_last=True)
    rest = _batches(drawn, shuffle=(3, 2), drop_last=True, skip=skip)
    assert len(whole) == 6
    assert [batch.keys for batch in rest] == [batch.keys for batch in whole[skip:]]
    for one, other in zip(rest, whole[skip:], strict=True):
        assert torch.equal(one.images, other.images)


def test_a_cut_shard_is_one_sentence(drawn: Drawn, tmp_path: Path) -> None:
    lake, name = Lake(tmp_path), "d"
    source = {"kind": "shapes", "train": 8, "val": 0, "test": 0, "size": 64}
    shard_all(spec.Dataset(name=name, source=source), lake)
    path = tmp_path / shard_tar(name, TRAIN[0])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"train-000000.*ttame shard"):
        list(load_batches(lake, name, TRAIN[:1], PLAIN, batch_size=2, workers=2))


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    source = {"kind": "shapes", "train": 320, "val": 0, "test": 0, "size": 64}
    shard_all(spec.Dataset(name="d", source=source, samples_per_shard=20), lake)

    def peak(shards: int) -> int:
        names = [f"train-{i:06d}" for i in range(shards)]
        tracemalloc.start()
        for _ in load_batches(lake, "d", names, PLAIN, batch_size=4, workers=2):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)  # what is imported and cached on first use
    assert peak(16) < 2 * peak(2)
