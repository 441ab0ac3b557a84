"""Workers that get in each other's way, as real processes: one complete file results."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from forked import PATIENCE
from PIL import Image
from tiny import shard_all

from ttame_core import spec
from ttame_core.data.index import finish_dataset
from ttame_core.data.plan import plan_shards
from ttame_core.data.shards import write_shard
from ttame_core.lake import Lake, fingerprint, maps_file
from ttame_core.stages.explain import read_maps

# Each tells what it has done of its file, and waits to be told to go on.
EXPLAIN = """
import sys
from tiny import tiny_backbone
from ttame_core import spec
from ttame_core.explainers import REGISTRY
from ttame_core.stages.explain import WantedMaps, explain_shard
from ttame_core.stages.shard import StoredShard
from ttame_core.lake import Lake

def tell(done):
    print(done, flush=True)
    sys.stdin.readline()

backbone = tiny_backbone()
explainer = REGISTRY["rise"](backbone, {"masks": 8})
explain_shard(
    StoredShard(Lake(sys.argv[1]), "drawn", "test-000000"), backbone,
    [WantedMaps("rise", explainer, "the same inputs")], "predicted",
    spec.Compute(batch_size=4), tell,
)
"""
WRITE = """
import pickle, sys
import webdataset as wds
from ttame_core.data.shards import write_shard
from ttame_core.lake import Lake

write = wds.TarWriter.write
def tell(self, sample):
    write(self, sample)
    print("sample", flush=True)
    sys.stdin.readline()

wds.TarWriter.write = tell
dataset, plan, shard = pickle.loads(bytes.fromhex(sys.argv[2]))
write_shard(dataset, Lake(sys.argv[1]), plan, shard)
"""


def _worker(code: str, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(worker: subprocess.Popen[str]) -> str:
    """Let it run to its end; its last words."""
    _, errors = worker.communicate(timeout=PATIENCE)
    return errors


@pytest.mark.long
def test_one_dies_one_finishes_and_one_comes_back_to_the_same_shard(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    source = {"kind": "shapes", "train": 0, "val": 0, "test": 12, "size": 64}
    shard_all(spec.Dataset(name="drawn", source=source), lake)
    file = tmp_path / maps_file("drawn", "resnet10t", "rise", "test-000000")

    def others() -> list[str]:
        folders = file.parent, tmp_path / "scores"
        return [p.name for f in folders for p in f.rglob("*") if p.is_file() and p.name[0] == "."]

    workers = [_worker(EXPLAIN, str(tmp_path)) for _ in range(3)]
    for worker in workers:
        assert worker.stdout.readline() == "4\n"  # 4 of 12 images
    assert len(others()) == 3 * 2  # maps and costs of three workers, half written
    assert not file.exists()
    dies, finishes, comes_back = workers
    dies.kill()
    dies.wait()
    assert "Error" not in _finish(finishes)
    assert finishes.returncode == 0
    made = pq.read_table(file)
    assert made.num_rows == 12
    assert len(others()) == 2  # the dead one's are gone, those of one at work are not

    assert "Error" not in _finish(comes_back)
    assert comes_back.returncode == 0
    assert pq.read_table(file).equals(made, check_metadata=True)
    assert others() == []
    assert [p.name for p in file.parent.iterdir()] == [file.name]

    # Had it had other inputs, its maps would not be scored as if they were those that are meant.
    path = str(file.relative_to(tmp_path))
    assert len(list(read_maps(lake, path, fingerprint("the same inputs")))) == 12
    with pytest.raises(RuntimeError, match="replaced by others"):
        next(read_maps(lake, path, fingerprint("other inputs")))


def test_a_worker_that_comes_back_with_old_inputs_replaces_nothing(tmp_path: Path) -> None:
    images = tmp_path / "images" / "cats"
    images.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(images / f"{number}.png")
    source = {"kind": "folder", "path": str(images.parent)}
    dataset = spec.Dataset(name="cats", source=source, splits={"test": 1.0})
    lake = Lake(tmp_path / "lake")
    (shard,) = (plan := plan_shards(dataset, lake)).shards

    late = _worker(WRITE, lake.url, pickle.dumps((dataset, plan, shard)).hex())
    assert late.stdout.readline() == "sample\n"

    Image.new("RGB", (32, 32), "blue").save(images / "0.png")
    plan = plan_shards(dataset, lake)
    assert write_shard(dataset, lake, plan, shard)
    finish_dataset(dataset, lake, plan)
    assert "was planned anew" in _finish(late)

    tar = Path(lake.path(f"datasets/cats/shards/{shard}.tar"))
    (row,) = lake.read_table("datasets/cats/shards.parquet").to_pylist()
    assert hashlib.sha256(tar.read_bytes()).hexdigest() == row["sha256"]
    assert not write_shard(dataset, lake, plan, shard)  # it is there, as planned
    assert sorted(p.suffix for p in tar.parent.iterdir()) == [".parquet", ".tar"]
