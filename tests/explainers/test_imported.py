"""Someone else's maps: by key, from Parquet and folders, and every way in which they can be bad."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import PLAIN

import ttame_core as tt
from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch, load_batches
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, ForwardPass, forward_pass
from ttame_core.lake import Lake

IMPORTED = REGISTRY["imported"]


@pytest.fixture(scope="module")
def batch(drawn: tuple[Lake, str]) -> Batch:
    return next(load_batches(*drawn, ["test-000000"], PLAIN, 4, 2))


@pytest.fixture(scope="module")
def forward(batch: Batch, tiny: Backbone) -> ForwardPass:
    return forward_pass(tiny, batch)


def _maps(count: int, *size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *size)).astype(np.float32)


def _parquet(path: Path, keys: list[str], maps: np.ndarray, **columns: Any) -> str:
    size = {"height": [maps.shape[1]] * len(keys), "width": [maps.shape[2]] * len(keys)}
    kind = columns.pop("kind", pa.list_(pa.float32()))
    listed = pa.array([m.flatten().tolist() for m in maps], kind)
    pq.write_table(pa.table({"key": keys, "map": listed, **size, **columns}), path)
    return str(path)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.list_(pa.float64()),
        pa.large_list(pa.float16()),
        pa.list_(pa.float32(), 15),
    ],
    ids=str,
)
def test_parquet_is_read_by_key(
    tmp_path: Path, forward: ForwardPass, tiny: Backbone, kind: pa.DataType
) -> None:
    keys, maps = forward.batch.keys, _maps(5, 3, 5)
    order = [2, 0, 3]  # not the second, and one that is nobody's
    path = _parquet(
        tmp_path / "maps [of *].parquet",
        [keys[i] for i in order] + ["nobody"],
        maps[[*order, 4]],
        kind=kind,
    )
    found = IMPORTED(tiny, {"path": path}).attribute(forward, torch.zeros(4, 2).long())
    assert found.shape == (4, 2, 3, 5)
    assert found.dtype == torch.float32
    assert found[1].isnan().all()
    for i in order:
        assert np.allclose(found[i].numpy(), maps[i], atol=2e-3)


def test_a_target_column_tells_the_classes_apart(
    tmp_path: Path, forward: ForwardPass, tiny: Backbone
) -> None:
    keys, maps = forward.batch.keys, _maps(3, 4, 4)
    path = _parquet(tmp_path / "m.parquet", [keys[0], keys[0], keys[1]], maps, target=[7, 3, 3])
    found = IMPORTED(tiny, {"path": path}).attribute(forward, torch.tensor([[3, 7, 5]] * 4))
    assert np.allclose(found[0, :2].numpy(), maps[[1, 0]])
    assert found[0, 2].isnan().all()
    assert np.allclose(found[1, 0].numpy(), maps[2])
    assert found[1, 1:].isnan().all()
    assert found[2:].isnan().all()


def test_a_folder_is_read_by_key(tmp_path: Path, forward: ForwardPass, tiny: Backbone) -> None:
    keys, maps = forward.batch.keys, _maps(4, 448, 200)
    for i in (0, 3):
        np.save(tmp_path / f"{keys[i]}.npy", maps[i])
    found = IMPORTED(tiny, {"path": str(tmp_path)}).attribute(forward, torch.zeros(4, 1).long())
    assert found.shape == (4, 1, 224, 200)  # larger ones are averaged down
    assert found[[1, 2]].isnan().all()
    whole = found[[0, 3]].mean(dim=(1, 2, 3))
    assert np.allclose(whole, maps[[0, 3]].mean(axis=(1, 2)), atol=1e-3)


def _without(column: str) -> Callable[[Path, list[str]], str]:
    def write(folder: Path, keys: list[str]) -> str:
        path = _parquet(folder / "m.parquet", keys, _maps(4, 2, 2))
        pq.write_table(pq.read_table(path).drop_columns([column]), path)
        return path

    return write


def _text_file(folder: Path, keys: list[str]) -> str:
    (folder / "m.parquet").write_text("key,map\n")
    return str(folder / "m.parquet")


def _wrong_length(folder: Path, keys: list[str]) -> str:
    path = _parquet(folder / "m.parquet", keys, _maps(4, 2, 2))
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "height", pa.array([2, 2, 3, 2])), path)
    return path


def _two_sizes(folder: Path, keys: list[str]) -> str:
    path = _parquet(folder / "m.parquet", keys, _maps(4, 2, 3))
    turned = pq.read_table(path).rename_columns(["key", "map", "width", "height"])
    both = [pq.read_table(path)[:3], turned.select(["key", "map", "height", "width"])[3:]]
    pq.write_table(pa.concat_tables(both), path)
    return path


def _words(folder: Path, keys: list[str]) -> str:
    maps = _maps(4, 2, 2).astype(str)
    return _parquet(folder / "m.parquet", keys, maps, kind=pa.list_(pa.string()))


def _array(**values: Any) -> Callable[[Path, list[str]], str]:
    def write(folder: Path, keys: list[str]) -> str:
        for number, value in values.items():
            np.save(folder / f"{keys[int(number[1:])]}.npy", value, allow_pickle=True)
        return str(folder)

    return write


def _cut(folder: Path, keys: list[str]) -> str:
    np.save(folder / f"{keys[0]}.npy", np.zeros((4, 4)))
    whole = (folder / f"{keys[0]}.npy").read_bytes()
    (folder / f"{keys[0]}.npy").write_bytes(whole[:-8])
    return str(folder)


BAD = {
    "no file": (lambda folder, keys: str(folder / "none.parquet"), "none.parquet.*correct"),
    "text": (_text_file, r"m\.parquet is no Parquet file"),
    "no key": (_without("key"), "no column key; it has map, height, width"),
    "no width": (_without("width"), "no column width"),
    "no rows": (lambda f, k: _parquet(f / "m.parquet", [], _maps(0, 2, 2)), "holds no maps"),
    "two sizes in a file": (_two_sizes, "is 3×2, another is 2×3: bring all to one size"),
    "words": (_words, "must be a list of numbers"),
    "length": (_wrong_length, r"has 4 values, which are not 3×2"),
    "empty folder": (lambda folder, keys: str(folder), "holds no maps: they are called <key>"),
    "three axes": (_array(_0=np.zeros((2, 2, 3))), "2×2×3 of float64: it must be h×w"),
    "two sizes": (_array(_0=np.zeros((2, 2)), _1=np.zeros((2, 3))), "bring all to one size"),
    "pickled": (_array(_0=np.array([[{}]], dtype=object)), "cannot be read.*Python objects"),
    "words in an array": (_array(_0=np.array([["a"]])), "it must be h×w numbers"),
    "cut off": (_cut, "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_maps_are_a_sentence(
    tmp_path: Path, forward: ForwardPass, tiny: Backbone, case: str
) -> None:
    write, words = BAD[case]
    path = write(tmp_path, forward.batch.keys)
    with pytest.raises(UserError, match=words) as raised:
        IMPORTED(tiny, {"path": path}).attribute(forward, torch.zeros(4, 1).long())
    assert str(tmp_path) in str(raised.value)


def test_its_identity_is_the_content(tmp_path: Path) -> None:
    paths = [_parquet(tmp_path / n, ["a"], _maps(1, 2, 2)) for n in ("one.parquet", "two.parquet")]
    one, two = (IMPORTED.identity({"path": path}) for path in paths)
    assert one == two
    _parquet(tmp_path / "two.parquet", ["a"], 2 * _maps(1, 2, 2))
    os.utime(paths[1], ns=(1, 1))
    assert IMPORTED.identity({"path": paths[1]}) != one

    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((2, 2)))
    before = IMPORTED.identity({"path": str(folder)})
    (folder / "notes.txt").write_text("not a map")
    assert IMPORTED.identity({"path": str(folder)}) == before
    np.save(folder / "b.npy", np.zeros((2, 2)))
    assert IMPORTED.identity({"path": str(folder)}) != before
    with pytest.raises(UserError, match=r"none.*correct"):
        IMPORTED.identity({"path": str(tmp_path / "none")})


def test_maps_that_cannot_be_made_again_have_no_such_scores(
    tmp_path: Path, batch: Batch, tiny: Backbone
) -> None:
    path = _parquet(tmp_path / "m.parquet", batch.keys, _maps(4, 8, 8))
    explainer = IMPORTED(tiny, {"path": path})
    families = ["robustness", "adcc", "sanity", "shape"]
    images, maps = batch.images, torch.rand(4, 8, 8)
    found = tt.evaluate(tiny, images, maps, families, explainer=explainer, keys=batch.keys)
    assert found.keys() == {"complexity", "sparseness"}


def test_files_that_claim_more_than_they_hold(tiny: Backbone, tmp_path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    with (tmp_path / "a.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(UserError, match=r"the map .*a\.npy cannot be read"):
        IMPORTED(tiny, {"path": str(tmp_path)})
    values = pa.array([0.0]).take(pa.array(np.zeros(2**22 + 1, np.int64)))
    maps = pa.ListArray.from_arrays([0, len(values)], values)
    table = pa.table({"key": ["a"], "height": [1], "width": [len(values)], "map": maps})
    pq.write_table(table, tmp_path / "maps.parquet")
    assert (tmp_path / "maps.parquet").stat().st_size < 10_000
    with pytest.raises(UserError, match="4194304 at most are read"):
        IMPORTED(tiny, {"path": str(tmp_path / "maps.parquet")})


def test_a_pipe_is_no_map(tiny: Backbone, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 2), np.float32))
    os.mkfifo(tmp_path / "b.npy")
    explainer = IMPORTED(tiny, {"path": str(tmp_path)})
    assert list(explainer.source.read(["b"])) == []
