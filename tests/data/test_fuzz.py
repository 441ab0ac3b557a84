"""Whatever the bytes: a reader takes them or says why not, and every input is accounted for."""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_images import _bomb
from tiny import jpeg, shard_all

from harness.inputs import PICTURE, READERS, VOC, is_taken, made
from ttame_core import spec
from ttame_core.data.annotations.base import BrokenAnnotation
from ttame_core.data.annotations.masks import read_mask
from ttame_core.lake import Lake, dataset_file

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4), max_leaves=8)
COCO = st.fixed_dictionaries(
    {
        "images": st.lists(
            st.fixed_dictionaries({}, optional={"id": VALUES, "file_name": VALUES}), max_size=3
        ),
        "categories": st.lists(st.fixed_dictionaries({"id": VALUES, "name": VALUES}), max_size=3),
        "annotations": VALUES
        | st.lists(
            st.fixed_dictionaries({"image_id": VALUES, "category_id": VALUES, "bbox": VALUES}),
            max_size=3,
        ),
    }
)


def _is_taken(kind: str, data: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return is_taken(kind, data, Path(folder))


@settings(max_examples=3000, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(READERS)), seed=st.integers(0, 2**32))
def test_mutations_of_real_files(kind: str, seed: int) -> None:
    _is_taken(kind, made(kind, seed, 0))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(READERS)), data=st.binary(max_size=200))
def test_bytes_of_any_kind(kind: str, data: bytes) -> None:
    _is_taken(kind, data)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(COCO | VALUES)
@example({"images": [], "categories": [{"id": [], "name": ""}], "annotations": []})
def test_json_of_any_kind_as_coco(content: object) -> None:
    _is_taken("COCO", json.dumps(content).encode())


@pytest.mark.parametrize("kind", sorted(READERS))
def test_real_files_are_taken(kind: str) -> None:
    assert all(_is_taken(kind, data) for data in READERS[kind].files)


def test_bombs_are_rejected_unread() -> None:
    entities = VOC.replace(
        b"<annotation>", b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>', 1
    )
    assert not _is_taken("VOC", entities)
    assert not _is_taken("VOC", b"<object>" * 100_000)
    assert not _is_taken("COCO", b"[" * 1_000_000)
    assert not _is_taken("pictures", _bomb())
    with pytest.raises(BrokenAnnotation, match="it has 30000×30000 pixels, the image 48×32"):
        read_mask(_bomb(), PICTURE)


@pytest.mark.parametrize("notes", ["voc", "masks"])
def test_every_input_is_taken_or_rejected_with_a_reason(notes: str, tmp_path: Path) -> None:
    """Broken pictures with broken annotations, in a folder as users have them."""
    rng = random.Random(notes)
    images, annotations = tmp_path / "images/a", tmp_path / "notes/a"
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)
    kind, suffix = {"voc": ("VOC", "xml"), "masks": ("masks", "png")}[notes]
    for number in range(120):
        (images / f"{number:03d}.jpg").write_bytes(
            made("pictures", 1, number) if rng.random() < 0.7 else jpeg((48, 32))
        )
        (annotations / f"{number:03d}.{suffix}").write_bytes(made(kind, 1, number))
    Path(os.fsdecode(bytes(images) + b"/\xff.jpg")).write_bytes(jpeg((48, 32)))
    Path(os.fsdecode(bytes(annotations) + b"/\xfe." + suffix.encode())).write_bytes(b"")
    lake = Lake(tmp_path / "lake")
    dataset = spec.Dataset(
        name="d",
        source={"kind": "folder", "path": str(images.parent)},
        annotations={"kind": notes, "path": str(annotations.parent)},
    )
    shard_all(dataset, lake)
    index, rejected = (
        lake.read_table(dataset_file("d", f"{name}.parquet")).to_pylist()
        for name in ("index", "rejected")
    )
    lost = [row["path"] for row in rejected if row["kind"] == "image"]
    assert sorted([row["path"] for row in index] + lost) == sorted(
        [*(f"a/{number:03d}.jpg" for number in range(120)), "a/\\udcff.jpg"]
    )
    assert all(row["reason"] for row in rejected)
    assert "a/\\udcfe" in {row["path"] for row in rejected if row["kind"] == "annotation"}
    assert min(len(index), len(lost)) > 10
