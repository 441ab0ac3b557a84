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
        (SHAPES, None, "65fb89cb4e72b117d5df9c6d355ea872"),
        (FOLDER, None, "980aaa35a0e8b749b2db1daa84ea6d6a"),
        (FOLDER, VOC, "cc017c5ffc599603a0594d1995af0820"),
        (FOLDER, {"kind": "masks", "path": "masks"}, "552f00df75ccb12cc8a1b4e9948b4834"),
        (FOLDER, {"kind": "coco", "path": "coco.json"}, "92079f9f641fbe606112a7289dfc8d76"),
        (
            {"kind": "list", "path": "list.txt", "root": "."},
            None,
            "82df1af3f64346abad68d387b5413678",
        ),
        ({"kind": "manifest", "path": "list.csv"}, None, "00e4c21eb685878c0c30699f0021d670"),
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
