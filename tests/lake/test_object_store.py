"""A lake on an object store that fails now and then, or goes away; and how often it is asked."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs

import pyarrow as pa
import pytest
from stores import BROKEN, SECRET, Ask, Store, every
from tiny import jpeg, shard_all

from ttame_core import spec
from ttame_core.data.index import load_shards
from ttame_core.data.loader import read_shard
from ttame_core.errors import StoreAway, UserError
from ttame_core.lake import Lake, maps_file, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query import read_only as reading
from ttame_core.lake.query.connection import connect, leaderboard, run_query
from ttame_core.lake.query.read_only import ReadOnly
from ttame_core.lake.schemas import LEADERBOARD, maps_schema

SCHEMA = pa.schema([("a", pa.int32())])
DRAWN = spec.Dataset(
    name="d",
    samples_per_shard=4,
    source={"kind": "shapes", "train": 8, "val": 0, "test": 4, "size": 32},
)


def _maps(lake: Lake, explainers: int, shards: int) -> list[tuple[str, str]]:
    files = [
        (maps_file("d", "net", f"e{e}", f"test-{s:06d}"), f"{e}/{s}")
        for e in range(explainers)
        for s in range(shards)
    ]
    for path, made_from in files:
        lake.write_parquet(path, [], maps_schema(2, 2), made_from)
    return files


def _count(lake: Lake, view: str) -> int:
    with connect(lake) as db:
        return db.sql(f"FROM {view}").to_arrow_table().num_rows


# ---- how often it is asked -------------------------------------------------------------------


class Slow:
    """A fault that only takes time. most: requests that waited at once."""

    def __init__(self) -> None:
        self._waiting, self.most = 0, 0
        self._lock = threading.Lock()

    def __call__(self, ask: Ask) -> None:
        with self._lock:
            self._waiting += 1
            self.most = max(self.most, self._waiting)
        time.sleep(0.05)
        with self._lock:
            self._waiting -= 1


def test_a_fingerprint_is_one_request_and_many_are_asked_for_together(s3: Store) -> None:
    lake = Lake(s3.url)
    files = _maps(lake, 2, 10)
    s3.asked.clear()
    s3.fault = slow = Slow()
    missing = ("maps/nothing.parquet", "x")
    assert lake.are_current([*files, missing]) == [True] * 20 + [False]
    assert [method for method, _ in s3.asked] == ["GET"] * 21
    assert slow.most > 4
    assert not any(lake.are_current([(path, "other") for path, _ in files]))


def test_a_footer_longer_than_what_is_fetched_is_read_all_the_same(s3: Store) -> None:
    lake = Lake(s3.url)
    lake.write_parquet("f.parquet", [{"a": 1}], SCHEMA, "x", long="-" * 200_000)
    assert lake.is_current("f.parquet", "x")
    assert len(lake.metadata("f.parquet")["long"]) == 200_000


def test_sql_lists_once_and_fetches_a_file_once_however_often_a_view_is_used(s3: Store) -> None:
    lake = Lake(s3.url)
    _maps(lake, 3, 4)
    counts = []
    for sql in ("FROM maps", "FROM maps JOIN maps AS b USING (key) JOIN maps AS c USING (key)"):
        s3.asked.clear()
        run_query(lake, sql)
        files = [path for method, path in s3.asked if ".parquet" in path and method == "GET"]
        assert len(files) == len(set(files)) == 12
        counts.append(len(s3.asked))
    assert counts[0] == counts[1]


def _listed(store: Store) -> list[str]:
    """Folders of the workspace that were listed."""
    listed = (parse_qs(path.partition("?")[2]) for _, path in store.asked if "list-type" in path)
    return [asked["prefix"][0].removeprefix("lake/") for asked in listed]


def test_a_question_lists_only_the_folders_that_it_needs(s3: Store) -> None:
    lake = Lake(s3.url)
    _maps(lake, 3, 2)
    row = {"key": "k", "label": 0, "predicted": 0, "target": 0, "seconds": 1.0}
    for dataset, explainer in (("d", "e0"), ("d", "e1"), ("other", "e1")):
        path = scores_file("cost", dataset, "net", explainer, "test-000000")
        lake.write_parquet(path, [row], schema_of("cost"), "x")
    lake.write_parquet("audits/a/20260101T000000Z/leaderboard.parquet", [], LEADERBOARD, "x")
    below = ("", "scores/", "scores/metric=cost/", "scores/metric=cost/dataset=d/")
    net = "scores/metric=cost/dataset=d/backbone=net/"
    other = "scores/metric=cost/dataset=other/"
    for sql, rows, folders in (
        ("SELECT 1", 1, []),
        ("FROM metrics WHERE family = 'cost'", 3, []),
        ("DESCRIBE leaderboard", 10, []),
        ("FROM audits", 0, ["", "audits/", "audits/a/", "audits/a/20260101T000000Z/"]),
        (
            "FROM cost WHERE dataset = 'd' AND backbone = 'net' AND explainer = 'e1'",
            1,
            [*below, net, f"{net}explainer=e1/"],
        ),
        (
            "FROM values_cost WHERE dataset = 'd'",
            2,
            [*below, net, f"{net}explainer=e0/", f"{net}explainer=e1/"],
        ),
        (
            "FROM cost WHERE explainer LIKE '%0'",
            1,
            [*below, net, f"{net}explainer=e0/", other, f"{other}backbone=net/"],
        ),
        ("FROM cost WHERE dataset = 'third'", 0, below[:3]),
    ):
        s3.asked.clear()
        assert run_query(lake, sql).num_rows == rows
        assert sorted(_listed(s3)) == sorted(folders)


def test_folders_are_listed_several_at_once(s3: Store) -> None:
    lake = Lake(s3.url)
    _maps(lake, 8, 1)
    s3.fault = slow = Slow()
    assert len(ReadOnly(lake).glob(maps_file("*", "*", "*", "*"))) == 8
    assert slow.most > 4


def test_large_files_are_read_in_parts_and_their_failures_said(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    lake = Lake(s3.url)
    _maps(lake, 1, 1)
    monkeypatch.setattr(reading, "SMALL", 10)
    assert run_query(lake, "FROM maps").num_rows == 0
    s3.fault = lambda ask: BROKEN if ask[1].endswith(".parquet") and ask[0] == "GET" else None
    with pytest.raises(StoreAway, match="does not answer"):
        run_query(lake, "FROM maps")


def test_what_another_machine_writes_is_seen_at_once(s3: Store) -> None:
    ours, other = Lake(s3.url), Lake(s3.url)
    assert ours.glob("folder/*") == []
    assert not ours.exists("folder/f.parquet")
    client = s3.client  # not through fsspec, which could tell itself
    other.write_parquet("folder/f.parquet", [{"a": 1}], SCHEMA, "x")
    name = f"{ours.root.partition('/')[2]}/folder"
    client.copy({"Bucket": s3.bucket, "Key": f"{name}/f.parquet"}, s3.bucket, f"{name}/g.parquet")
    assert ours.glob("folder/*") == ["folder/f.parquet", "folder/g.parquet"]
    assert ours.is_current("folder/g.parquet", "x")
    client.delete_object(Bucket=s3.bucket, Key=f"{name}/g.parquet")
    assert ours.glob("folder/*") == ["folder/f.parquet"]
    assert not ours.exists("folder/g.parquet")


def test_a_shard_is_read_as_a_stream(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(s3.url)
    shard_all(DRAWN.model_copy(update={"samples_per_shard": 100}), lake)
    lake.fs.default_block_size = 4096  # of a small tar, as 8 MiB are of a large one
    monkeypatch.setattr(lake.fs, "default_block_size", 4096)
    samples = read_shard(lake, "d", "train-000000")
    s3.asked.clear()
    next(samples)
    first = sum(".tar" in path and method == "GET" for method, path in s3.asked)
    assert len(list(samples)) == 7
    assert sum(".tar" in path and method == "GET" for method, path in s3.asked) > 2 * first


# ---- written whole or not at all -------------------------------------------------------------


def test_two_workers_that_write_a_file_at_once_leave_one_of_the_two_whole(s3: Store) -> None:
    lakes = Lake(s3.url), Lake(s3.url)
    barrier = threading.Barrier(2)

    def write(number: int) -> None:
        with lakes[number].create("f.bin") as path:
            path.write_bytes(bytes([number]) * 3_000_000)
            barrier.wait(20)

    for _ in range(5):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, (0, 1)))
        (content,) = s3.content().values()
        assert content in (b"\0" * 3_000_000, b"\1" * 3_000_000)


def test_a_put_that_fails_leaves_the_old_file(s3: Store) -> None:
    lake = Lake(s3.url)
    lake.write_parquet("f.parquet", [{"a": 1}], SCHEMA, "old")
    s3.fault = lambda ask: (403, b"<Error><Code>AccessDenied</Code></Error>")
    with pytest.raises(UserError, match="credentials"):
        lake.write_parquet("f.parquet", [{"a": 2}], SCHEMA, "new")
    s3.fault = None
    assert lake.is_current("f.parquet", "old")
    assert lake.glob("*") == ["f.parquet"]


def test_an_upload_in_parts_that_fails_is_given_up_and_never_seen(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(s3.url)
    put = lake.fs.put_file
    # Parts of 5 MiB, the least there may be, as 50 MiB are of files above 100 MiB.
    monkeypatch.setattr(lake.fs, "put_file", lambda a, b: put(a, b, chunksize=5 * 2**20))
    s3.fault = lambda ask: (
        (403, b"<Error><Code>AccessDenied</Code></Error>") if "partNumber=3" in ask[1] else None
    )
    with pytest.raises(UserError), lake.create("f.bin") as path:
        path.write_bytes(b"x" * (15 * 2**20))
    assert any("partNumber=1" in path for _, path in s3.asked)  # it was under way
    assert s3.content() == {}
    assert not s3.client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads")


# ---- failing, slow, away ---------------------------------------------------------------------


def test_500s_now_and_then_lose_nothing(s3: Store, tmp_path: Path) -> None:
    s3.fault = every(12, lambda ask: BROKEN)
    lakes = Lake(s3.url), Lake(tmp_path)
    for lake in lakes:
        assert shard_all(DRAWN, lake) == [True] * 3
        assert shard_all(DRAWN, lake) == [False] * 3
    assert len(s3.asked) > 24  # at least two of them failed
    found, expected = (
        [(s["__key__"], s["json"]) for shard in load_shards(lake, "d")
         for s in read_shard(lake, "d", shard.shard)]
        for lake in lakes
    )  # fmt: skip
    assert found == expected
    assert leaderboard(lakes[0]).num_rows == 0


def test_pictures_in_a_bucket_that_fails_are_not_taken_for_broken_ones(
    s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    pictures = {f"{label}/{i}.jpg": jpeg(colour=label) for label in ("red", "blue") for i in (0, 1)}
    for name, data in {**pictures, "red/broken.jpg": b"", "red/text.jpg": b"text"}.items():
        s3.client.put_object(Bucket=s3.bucket, Key=f"pictures/{name}", Body=data)
    source = {"kind": "folder", "path": f"s3://{s3.bucket}/pictures"}
    dataset = spec.Dataset(name="d", source=source, splits={"test": 1.0})
    lake = Lake(tmp_path)
    s3.fault = lambda ask: BROKEN if ask[1].endswith("1.jpg") and ask[0] == "GET" else None
    with pytest.raises(StoreAway, match=r"pictures/\w+/1\.jpg does not answer"):
        shard_all(dataset, lake)
    s3.fault = None
    shard_all(dataset, lake)
    taken = lake.read_table("datasets/d/index.parquet")["path"].to_pylist()
    rejected = lake.read_table("datasets/d/rejected.parquet")["path"].to_pylist()
    assert sorted(taken) == sorted(pictures)
    assert sorted(rejected) == ["red/broken.jpg", "red/text.jpg"]


def test_a_store_that_stays_away_is_said_in_one_sentence_and_believed_when_back(
    s3: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # the usual way to say so
    lake = Lake(s3.url)
    shard_all(DRAWN, lake)
    with s3.away():
        for ask in (
            lambda: lake.exists("x"),
            lambda: lake.is_current("x", 1),
            lambda: lake.read_table("datasets/d/index.parquet"),
            lambda: list(read_shard(lake, "d", "train-000000")),
            lambda: lake.write_parquet("f.parquet", [{"a": 1}], SCHEMA, "x"),
            lambda: run_query(lake, "FROM samples"),
        ):
            with pytest.raises(StoreAway, match=r"does not answer.*run again") as said:
                ask()
            assert "\n" not in str(said.value)
            assert SECRET not in str(said.value)
    s3.fault = lambda ask: BROKEN if ask[1].endswith(".parquet") else None  # midway in a query
    for ask in (lambda: run_query(lake, "FROM samples"), lambda: _count(lake, "samples")):
        with pytest.raises(StoreAway, match=r"does not answer.*run again"):
            ask()
    s3.fault = None
    assert run_query(lake, "FROM samples").num_rows == 12
    assert sum(s.samples for s in load_shards(lake, "d")) == 12


def test_what_is_not_there_or_not_allowed_is_said(s3: Store) -> None:
    lake = Lake("s3://no-such-bucket-here/lake")
    with pytest.raises(UserError, match="there is no bucket"):
        lake.write_parquet("f.parquet", [{"a": 1}], SCHEMA, "x")
    lake = Lake(s3.url)
    s3.fault = lambda ask: (403, b"<Error><Code>InvalidAccessKeyId</Code></Error>")
    for ask in (lambda: lake.exists("x"), lambda: lake.glob("*"), lambda: lake.is_current("x", 1)):
        with pytest.raises(UserError, match="credentials") as said:
            ask()
        assert not isinstance(said.value, StoreAway)
