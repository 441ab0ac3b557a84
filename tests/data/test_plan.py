"""The plan of a data set's shards, and what it is fingerprinted by."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ttame_core import spec
from ttame_core.data.plan import plan_shards
from ttame_core.lake import Lake, fingerprint

COCO = {
    "categories": [{"id": 1, "name": "c"}],
    "images": [{"id": 1, "file_name": "1.png"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
}
FILES = {
    "images/a/1.png": "one",
    "images/b/2.png": "two",
    "boxes/a/1.xml": "<a/>",
    "masks/a/1.png": "m",
    "coco.json": json.dumps(COCO, separators=(",", ":")),
    "list.txt": "images/a/1.png 0\nimages/b/2.png 1\n",
    "list.csv": "path,label\nimages/a/1.png,a\nimages/b/2.png,b\n",
}
FOLDER = {"kind": "folder", "path": "images"}
SHAPES = {"kind": "shapes", "train": 2, "val": 0, "test": 0, "size": 32}
VOC = {"kind": "voc", "path": "boxes", "objects": {"a": ["x"]}}


@pytest.mark.parametrize(
    ("source", "annotations", "expected"),
    [
        (SHAPES, None, "f0bdb3ec0d0d21d50fa8430fd8c29c24"),
        (FOLDER, None, "7674bf0ea673a3c19b101fd962376393"),
        (FOLDER, VOC, "3459fc0b3460b758fd3a804e52d4b633"),
        (FOLDER, {"kind": "masks", "path": "masks"}, "756bd6d433abd4b331586f7442577d93"),
        (FOLDER, {"kind": "coco", "path": "coco.json"}, "5d050ed195a7e2fe642960bcc354de77"),
        (
            {"kind": "list", "path": "list.txt", "root": "."},
            None,
            "395182e5b8e68a1bce55fe0d422cfa6c",
        ),
        ({"kind": "manifest", "path": "list.csv"}, None, "095549d7a7fabfbe4a11e52d1a56fcc2"),
    ],
)
def test_shards_of_earlier_versions_are_still_current(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: dict[str, object],
    annotations: dict[str, object] | None,
    expected: str,
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (1e9, 1e9))
    monkeypatch.chdir(tmp_path)
    dataset = spec.Dataset.model_validate(
        {"name": "d", "source": source, "annotations": annotations, "splits": {"train": 1}}
    )
    plan = plan_shards(dataset, Lake(str(tmp_path / "lake")))
    assert fingerprint(plan.made_from(plan.shards[0])) == expected
