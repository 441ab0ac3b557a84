"""From inputs to shards: nothing lost, nothing done twice, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny import jpeg, shard_all

from ttame_core import spec
from ttame_core.data import plan as planning
from ttame_core.data.index import count_rejected, left_out, load_classes, load_shards
from ttame_core.data.loader import image_bytes, read_shard
from ttame_core.data.plan import plan_shards
from ttame_core.data.shards import write_shard
from ttame_core.errors import UserError
from ttame_core.lake import Lake, fingerprint, maps_file, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.schemas import maps_schema


def _dataset(root: Path, **options: object) -> spec.Dataset:
    source = options.pop("source", {"kind": "folder", "path": str(root)})
    return spec.Dataset(name="d", source=source, **options)


def _table(lake: Lake, name: str) -> list[dict]:
    return lake.read_table(f"datasets/d/{name}.parquet").to_pylist()


def _hashes(lake: Lake) -> dict[str, str]:
    return {
        path: hashlib.sha256(Path(lake.path(path)).read_bytes()).hexdigest()
        for path in lake.glob("datasets/d/shards/*.tar")
    }


def _many(root: Path, count: int) -> Path:
    for index in range(count):
        path = root / f"class{index % 3}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg((20, 20), f"#{index:06x}"))
    return root


def test_every_input_is_in_exactly_one_of_index_and_rejected(folder: Path, tmp_path: Path) -> None:
    (folder / "dogs/broken.jpg").write_bytes(jpeg()[:80])
    (folder / "dogs/empty.jpg").write_bytes(b"")
    (folder / "dogs/text.jpg").write_text("text")
    (folder / "loose.jpg").write_bytes(jpeg())
    (folder / "empty class").mkdir()
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(folder), lake)
    index, rejected = _table(lake, "index"), _table(lake, "rejected")
    inputs = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    taken = [row["path"] for row in index]
    refused = [row["path"] for row in rejected if row["kind"] == "image"]
    assert sorted(taken + refused) == sorted(inputs)
    assert set(refused) == {"dogs/broken.jpg", "dogs/empty.jpg", "dogs/text.jpg", "loose.jpg"}
    assert all(row["reason"] for row in rejected)
    assert load_classes(lake, "d") == ["cats", "dogs"]
    counts = count_rejected(lake, "d")
    assert counts == {"folder": 1, "image": 4}
    assert left_out(counts).startswith("1 folder and 4 images were left out: ttame query")
    assert left_out({}) == ""
    keys = [row["key"] for row in index]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and "." not in key and " " not in key for key in keys)


def test_original_bytes_are_kept_and_rows_are_true(folder: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(folder), lake)
    rows = {row["key"]: row for row in _table(lake, "index")}
    seen = set()
    for shard in load_shards(lake, "d"):
        for sample in read_shard(lake, "d", shard.shard):
            row = rows[sample["__key__"]]
            data = (folder / row["path"]).read_bytes()
            assert image_bytes(sample) == data
            assert hashlib.sha256(data).hexdigest() == row["sha256"]
            assert (row["width"], row["height"], row["shard"]) == (40, 30, shard.shard)
            about = json.loads(sample["json"])
            assert about["class"] == row["path"].split("/")[0]
            assert about["label"] == row["label"] == load_classes(lake, "d").index(about["class"])
            seen.add(row["key"])
    assert seen == set(rows)


def test_the_same_bytes_wherever_and_whenever(folder: Path, tmp_path: Path) -> None:
    first, second = Lake(tmp_path / "a"), Lake(tmp_path / "b")
    shard_all(_dataset(folder), first)
    shard_all(_dataset(folder), second)
    assert _hashes(first) == _hashes(second) != {}
    for name in ("index", "annotations", "rejected", "shards"):
        assert _table(first, name) == _table(second, name)
    with tarfile.open(next((tmp_path / "a").rglob("*.tar"))) as tar:
        assert {member.mtime for member in tar} == {0}


def test_again_does_nothing_and_a_change_touches_its_shard_only(tmp_path: Path) -> None:
    root = _many(tmp_path / "images", 60)
    lake = Lake(tmp_path / "lake")
    dataset = _dataset(root, samples_per_shard=8)
    written = shard_all(dataset, lake)
    assert all(written)
    assert len(written) >= 8
    before = _hashes(lake)
    times = {p: os.stat(lake.path(p)).st_mtime_ns for p in lake.glob("datasets/d/**")}
    assert not any(shard_all(dataset, lake))
    assert {p: os.stat(lake.path(p)).st_mtime_ns for p in lake.glob("datasets/d/**")} == times

    (root / "class0/0.jpg").write_bytes(jpeg((20, 20), "white"))
    assert sum(shard_all(dataset, lake)) == 1
    (root / "class0/new.jpg").write_bytes(jpeg((20, 20), "black"))
    assert sum(shard_all(dataset, lake)) == 1
    (root / "class0/new.jpg").unlink()
    assert sum(shard_all(dataset, lake)) == 1
    after = _hashes(lake)
    assert sum(before[path] != after[path] for path in before) == 1


def test_a_plan_is_the_same_however_many_are_sorted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _many(tmp_path / "images", 60)
    for name in ("b.jpg", "a.jpg"):  # in no class folder
        (root / name).write_bytes(jpeg())
    dataset = _dataset(root, samples_per_shard=8)
    lakes = [Lake(tmp_path / name) for name in ("whole", "parts")]
    plans = [plan_shards(dataset, lakes[0])]
    monkeypatch.setattr(planning, "AT_ONCE", 5)
    plans.append(plan_shards(dataset, lakes[1]))
    assert plans[0] == plans[1]
    assert _table(lakes[0], "plan") == _table(lakes[1], "plan")
    path = "datasets/d/plan.parquet"
    assert lakes[0].metadata(path) == lakes[1].metadata(path)
    refused = [row for row in _table(lakes[0], "plan") if not row["shard"]]
    lines = sorted(f"{row['path']}|{row['kind']}|{row['reason']}" for row in refused)
    assert len(lines) == 2
    digest = hashlib.md5("\n".join(lines).encode()).hexdigest()
    assert digest in lakes[0].metadata(path)["ttame.made_from"]


def test_what_cannot_spill_takes_more_memory_than_a_plan_should() -> None:
    joined = "SELECT string_agg(i::VARCHAR, '' ORDER BY i) AS t FROM range(1000000) AS r(i)"
    one_text = f"CREATE TABLE t AS {joined}"
    with duckdb.connect() as db:
        db.execute("SET memory_limit = '16MB'")
        with pytest.raises(duckdb.OutOfMemoryException):
            db.execute(one_text)
        planning._execute(db, one_text)
        assert db.execute("SELECT length(t) FROM t").fetchall() == [(5_888_890,)]


def test_shards_that_are_no_longer_needed_go_with_their_maps(tmp_path: Path) -> None:
    root = _many(tmp_path / "images", 40)
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(root, samples_per_shard=4), lake)
    stale = load_shards(lake, "d", "train")[-1].shard
    for place in (
        "maps/dataset=d/backbone=b/explainer=e",
        "maps/dataset=other/backbone=b/explainer=e",
    ):
        lake.write_parquet(f"{place}/{stale}.parquet", [], maps_schema(1, 1), "x")
    kept = plan_shards(_dataset(root, samples_per_shard=400), lake).shards[0]
    with lake.create(f"maps/dataset=d/backbone=b/explainer=e/{kept}.parquet") as being_written:
        shard_all(_dataset(root, samples_per_shard=400), lake)
        assert being_written.exists()  # by another process
    lake.remove(f"maps/dataset=d/backbone=b/explainer=e/{kept}.parquet")
    assert len(_hashes(lake)) == 3
    assert lake.glob("maps/dataset=d/*/*/*") == []
    assert len(lake.glob("maps/dataset=other/*/*/*")) == 1


def test_maps_and_scores_of_other_pixels_go(tmp_path: Path) -> None:
    root = _many(tmp_path / "images", 40)
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(root, samples_per_shard=10), lake)
    shards = load_shards(lake, "d")
    for shard in shards:
        of = ("d", "b", "e", shard.shard)
        made_from = {"shard": shard.sha256}
        lake.write_parquet(maps_file(*of), [], maps_schema(1, 1), made_from)
        scored = {"maps": fingerprint(made_from)}
        lake.write_parquet(scores_file("shape", *of), [], schema_of("shape"), scored)
    (changed,) = (row["shard"] for row in _table(lake, "index") if row["path"] == "class0/0.jpg")
    Image.new("RGB", (8, 8), "blue").save(root / "class0/0.jpg")
    shard_all(_dataset(root, samples_per_shard=10), lake)
    left = {shard.shard for shard in shards} - {changed}
    for pattern in ("maps/*/*/*/*", "scores/*/*/*/*/*"):
        assert {Path(path).stem for path in lake.glob(pattern)} == left


def test_what_is_no_plain_file_is_rejected(tmp_path: Path) -> None:
    root = _many(tmp_path / "images", 6)
    os.mkfifo(root / "class0/pipe.jpg")
    (root / "class0/zeros.jpg").symlink_to("/dev/zero")
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(root), lake)
    rejected = {row["path"]: row["reason"] for row in _table(lake, "rejected")}
    assert rejected == dict.fromkeys(("class0/pipe.jpg", "class0/zeros.jpg"), "it is no plain file")


def test_no_file_is_removed_that_ttame_did_not_make(tmp_path: Path) -> None:
    root = _many(tmp_path / "images", 40)
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(root, samples_per_shard=4), lake)
    foreign = tmp_path / "elsewhere"
    foreign.mkdir()
    for folder in (foreign, tmp_path / "lake/datasets/d/shards"):
        (folder / "notes.txt").write_text("mine")
        (folder / "train-000099.tar").write_text("mine")
        pq.write_table(pa.table({"a": [1]}), folder / "train-000098.parquet")
    Lake(foreign).write_parquet("train-000097.parquet", [], maps_schema(1, 1), "x")
    below = tmp_path / "lake/maps/dataset=d/backbone=b"
    below.mkdir(parents=True)
    (below / "explainer=e").symlink_to(foreign)
    (below / "explainer=f").mkdir()
    (below / "explainer=f/train-000096.parquet").symlink_to(foreign / "train-000097.parquet")
    copy = "maps/dataset=d/backbone=b/explainer=f/my-train-000095.parquet"
    lake.write_parquet(copy, [], maps_schema(1, 1), "x")
    mine = {p for p in tmp_path.rglob("*") if p.name == "notes.txt" or "-00009" in p.name}
    shard_all(_dataset(root, samples_per_shard=400), lake)
    assert len(mine) == 9
    assert all(path.exists() for path in mine)


def test_shards_are_about_as_large_as_asked_and_mixed(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(_many(tmp_path / "images", 90), samples_per_shard=20), lake)
    index = _table(lake, "index")
    sizes = [s.samples for s in load_shards(lake, "d", "train")]
    assert max(sizes) <= 40
    assert sum(sizes) == sum(row["split"] == "train" for row in index)
    order = [int(row["path"].split("/")[1].split(".")[0]) for row in index]
    assert order != sorted(order)
    assert abs(sum(sizes) / len(index) - 0.7) < 0.15


def test_maximum_size_scales_picture_and_boxes(tmp_path: Path) -> None:
    images, boxes = tmp_path / "images/a", tmp_path / "boxes/a"
    images.mkdir(parents=True)
    boxes.mkdir(parents=True)
    (images / "p.png").write_bytes(b"")
    Image.new("RGB", (200, 100)).save(images / "p.png")
    Image.new("RGB", (20, 10)).save(images / "small.png")
    (boxes / "p.xml").write_text(
        "<annotation><object><name>n</name><bndbox><xmin>21</xmin><ymin>41</ymin><xmax>60</xmax>"
        "<ymax>80</ymax></bndbox></object></annotation>"
    )
    lake = Lake(tmp_path / "lake")
    annotations = {"kind": "voc", "path": str(tmp_path / "boxes")}
    shard_all(_dataset(tmp_path / "images", annotations=annotations, max_size=50), lake)
    sizes = {row["path"]: (row["width"], row["height"]) for row in _table(lake, "index")}
    assert sizes == {"a/p.png": (50, 25), "a/small.png": (20, 10)}
    (box,) = _table(lake, "annotations")
    assert [box[c] for c in ("x0", "y0", "x1", "y1")] == [5, 10, 15, 20]


def test_voc_by_stem_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    root, notes = tmp_path / "images", tmp_path / "notes"
    for name in ("a/one.jpg", "b/one.jpg", "b/two.jpg", "a/bad.jpg", "a/far.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg((40, 30)))
    xml = (
        "<annotation><object><name>{}</name><bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>{}</xmax>"
        "<ymax>9</ymax></bndbox></object></annotation>"
    )
    (notes / "a").mkdir(parents=True)
    (notes / "a/one.xml").write_text(xml.format("keep", 1, 9))
    (notes / "two.xml").write_text(xml.format("keep", 11, 19))  # by its stem
    (notes / "one.xml").write_text(xml.format("keep", 3, 4))  # the only `one` that is left: b/one
    (notes / "a/bad.xml").write_text("this is not XML")
    (notes / "a/far.xml").write_text(xml.format("keep", 100, 120))
    (notes / "nothing.xml").write_text(xml.format("keep", 1, 9))
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(root, annotations={"kind": "voc", "path": str(notes)}), lake)
    paths = {row["key"]: row["path"] for row in _table(lake, "index")}
    found = {paths[row["key"]]: row["x0"] for row in _table(lake, "annotations")}
    assert found == {"a/one.jpg": 0, "b/two.jpg": 10, "b/one.jpg": 2}
    reasons = {row["path"]: row["reason"] for row in _table(lake, "rejected")}
    assert reasons.keys() == {"a/bad", "a/far", "nothing"}
    assert "not XML" in reasons["a/bad"]
    assert "outside" in reasons["a/far"]
    assert "no image" in reasons["nothing"]
    assert len(paths) == 5  # the images themselves are taken


def test_objects_that_count(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for name in ("a/p.jpg", "b/q.jpg"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(jpeg((40, 30)))
    coco = {
        "images": [{"id": 1, "file_name": "a/p.jpg"}, {"id": 2, "file_name": "q.jpg"}],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 5]},
            {"image_id": 1, "category_id": 2, "bbox": [5, 5, 5, 5]},
            {"image_id": 2, "category_id": 2, "bbox": [7, 8, 9, 10]},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    annotations = {"kind": "coco", "path": str(tmp_path / "coco.json"), "objects": {"a": ["cell"]}}
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(root, annotations=annotations), lake)
    rows = _table(lake, "annotations")
    found = sorted([r["name"], r["x0"], r["y0"], r["x1"], r["y1"]] for r in rows)
    assert found == [["cell", 1, 2, 11, 7], ["dust", 7, 8, 16, 18]]


def test_png_masks(tmp_path: Path) -> None:
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "masks/a").mkdir(parents=True)
    (tmp_path / "images/a/p.jpg").write_bytes(jpeg((40, 30)))
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[10:20, 5:15] = 255
    Image.fromarray(mask).save(tmp_path / "masks/a/p.png")
    lake = Lake(tmp_path / "lake")
    annotations = {"kind": "masks", "path": str(tmp_path / "masks")}
    shard_all(_dataset(tmp_path / "images", annotations=annotations), lake)
    (row,) = _table(lake, "annotations")
    assert [row[c] for c in ("name", "x0", "y0", "x1", "y1")] == ["a", 5, 10, 15, 20]
    (shard,) = load_shards(lake, "d")
    (sample,) = read_shard(lake, "d", shard.shard)
    assert "mask.png" in sample


def test_lists_duplicates_and_class_order(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("cats/a b.jpg 2\ndogs/same.jpg 0\ncats/a b.jpg 1\n")
    source = {"kind": "list", "path": str(tmp_path / "list.txt"), "root": str(folder)}
    lake = Lake(tmp_path / "lake")
    shard_all(_dataset(folder, source=source, classes=["x", "y", "z"]), lake)
    assert {r["path"]: (r["label"], r["class"]) for r in _table(lake, "index")} == {
        "cats/a b.jpg": (2, "z"),
        "dogs/same.jpg": (0, "x"),
    }
    (row,) = _table(lake, "rejected")
    assert row["reason"] == "listed more than once"
    with pytest.raises(UserError, match="label 2"):
        plan_shards(_dataset(folder, source=source, classes=["x", "y"]), lake)
    with pytest.raises(UserError, match=r"class dogs .*Did you mean dog"):
        plan_shards(_dataset(folder, classes=["cats", "dog"]), lake)


def test_nothing_to_take(tmp_path: Path) -> None:
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "images/a/p.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"a/p\.jpg: the file is empty"):
        shard_all(_dataset(tmp_path / "images"), Lake(tmp_path / "lake"))
    with pytest.raises(UserError, match="ttame shard"):
        load_shards(Lake(tmp_path / "lake"), "d")


def test_a_lake_in_memory(folder: Path) -> None:
    lake = Lake("memory://sharding")
    assert all(shard_all(_dataset(folder), lake))
    assert not any(shard_all(_dataset(folder), lake))
    assert len(_table(lake, "index")) == 5


def test_an_interrupted_tar_is_written_again(folder: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    dataset = _dataset(folder)
    shard_all(dataset, lake)
    before = _hashes(lake)
    tar = next(iter(before))
    plan = plan_shards(dataset, lake)
    shard = tar.rsplit("/", 1)[1].removesuffix(".tar")
    lake.remove(tar)  # killed between the two files, the other way round
    assert write_shard(dataset, lake, plan, shard)
    lake.remove(tar.replace(".tar", ".parquet"))
    assert write_shard(dataset, lake, plan, shard)
    assert _hashes(lake) == before
