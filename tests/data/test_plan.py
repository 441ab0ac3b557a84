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
        (SHAPES, None, "63ed95928485dfc3fdb03a50f6affb58"),
        (FOLDER, None, "76b4217f337cbe35ea6dc8c61e3086fd"),
        (FOLDER, VOC, "cc1c1933b296773ce46f0a5f6c7675d3"),
        (FOLDER, {"kind": "masks", "path": "masks"}, "f61c99aa198e52f8416c0a401057a805"),
        (FOLDER, {"kind": "coco", "path": "coco.json"}, "becf73dd5a7e6b439522eac3fd08e514"),
        (
            {"kind": "list", "path": "list.txt", "root": "."},
            None,
            "77a677661b3da4c8ad5118e2c8d5fb29",
        ),
        ({"kind": "manifest", "path": "list.csv"}, None, "99ae728d3eb5c00d954c81f8117cb18c"),
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
