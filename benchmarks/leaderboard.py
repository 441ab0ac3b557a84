"""A leaderboard over ten million rows of scores, and what the lake's layout has to do with it.

The rows are those of `confidence`: 52,084 images, 8 backbones, 8 explainers, 3 kept percentages.
Before that: how much questions list of 80,000 files.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from ttame_core.lake import Lake, scores_file
from ttame_core.lake.families import schema_of
from ttame_core.lake.query.boards import scores_state
from ttame_core.lake.query.connection import connect, run_query
from ttame_core.lake.records import board_fingerprint
from ttame_core.lake.schemas import LEADERBOARD

IMAGES = 52_084
BACKBONES = tuple(f"backbone-{number}" for number in range(8))
EXPLAINERS = ("random", "oracle", "ttame", "gradcam", "gradcam++", "rise", "scorecam", "layercam")
KEEP = (100, 50, 15)
SHARDS = (1000, 10_000)  # samples in each
ROUNDS = 3
THREADS = 2
ROW_GROUPS = 500  # rows
LAYOUTS = {
    "as it is: zstd, a row group, in the shard's order": {"compression": "zstd"},
    "zstd at level 9": {"compression": "zstd", "compression_level": 9},
    "snappy": {"compression": "snappy"},
    "not compressed": {"compression": "none"},
    f"row groups of {ROW_GROUPS}": {"compression": "zstd", "row_group_size": ROW_GROUPS},
    "sorted by kept percentage": {"compression": "zstd", "sort": "keep"},
}
FAMILIES = ("confidence", "cost", "localization", "road", "shape")
CLASSIFIERS, SHARDS_EACH = 50, 320
PAGE = 1000  # names that an object store tells in one request
ASKED = (
    "FROM metrics",
    "FROM audits",
    "FROM cost WHERE backbone = 'b07'",
    "FROM explainers",
    "FROM duckdb_views()",
)
Files = Iterator[tuple[str, pa.Table]]


def scores(images: int, per_shard: int) -> Files:
    """Path and rows of each file."""
    rng = np.random.default_rng(0)
    for shard in range(-(-images // per_shard)):
        numbers = range(shard * per_shard, min(images, (shard + 1) * per_shard))
        digests = [hashlib.sha256(str(n).encode()).hexdigest()[:12] for n in numbers]
        keys = [f"val-{n:08d}-{digest}" for n, digest in zip(numbers, digests, strict=True)]
        image = np.repeat(np.arange(len(keys)), len(KEEP))
        label = rng.integers(0, 1000, len(keys))
        for backbone in BACKBONES:
            right = rng.random(len(keys)) < 0.8
            target = np.where(right, label, rng.integers(0, 1000, len(keys)))
            p = rng.beta(5, 1, len(keys))
            for explainer in EXPLAINERS:
                columns = {
                    "key": pa.array(keys).take(pa.array(image)),
                    "label": label[image],
                    "predicted": target[image],
                    "target": target[image],
                    "keep": np.tile(np.float32(KEEP), len(keys)),
                    "fill": ["zero"] * len(image),
                    "p": p[image],
                    "p_masked": p[image] * rng.beta(2, 1, len(image)),
                }
                path = scores_file("confidence", "d", backbone, explainer, f"test-{shard:06d}")
                yield path, pa.table(columns).cast(schema_of("confidence"))


def compare() -> list[Table]:
    return [_listings(), _answers(), _layouts()]


class Counted(Lake):
    """Counts the requests that its listings would take on an object store."""

    requests = 0

    def entries(self, folder: str) -> dict[str, Any]:
        found = super().entries(folder)
        self.requests += max(1, -(-len(found) // PAGE))
        return found


def _listings() -> Table:
    """What questions list; the last one lists all."""
    files = CLASSIFIERS * SHARDS_EACH * len(FAMILIES)
    table = Table(title=f"listings for a question, of {files:,} files without rows, seconds")
    for name in ("question", "requests", "wall", "processor"):
        table.add_column(name, justify="right" if name != "question" else "left")
    with tempfile.TemporaryDirectory() as folder:
        lake = Counted(folder)
        for family in FAMILIES:
            lake.write_parquet(family, [], schema_of(family), "x")
            content = Path(lake.path(family)).read_bytes()
            for classifier in range(CLASSIFIERS):
                path = lake.path(scores_file(family, "d", f"b{classifier:02d}", "e", "test"))
                Path(path).parent.mkdir(parents=True)
                for shard in range(SHARDS_EACH):
                    Path(path).with_stem(f"test-{shard:06d}").write_bytes(content)
        for sql in ASKED:
            wall, cpu, _ = _timed(lambda sql=sql: run_query(lake, sql))
            requests = lake.requests // (ROUNDS + 1)
            table.add_row(sql, f"{requests:,}", f"{wall:.2f}", f"{cpu:.2f}")
            lake.requests = 0
    return table


def _answers() -> Table:
    rows = IMAGES * len(BACKBONES) * len(EXPLAINERS) * len(KEEP)
    table = Table(title=f"the leaderboard over {rows:,} rows of scores, {THREADS} threads, seconds")
    for name in ("samples/shard", "files", "asked by", "", "wall", "processor", "lines"):
        table.add_column(name, justify="right" if name != "asked by" else "left")
    for per_shard in SHARDS:
        with tempfile.TemporaryDirectory() as folder:
            lake = Lake(folder)
            for path, found in scores(IMAGES, per_shard):
                place = Path(lake.path(path))
                place.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(found, place, compression="zstd")
            files = f"{len(lake.glob('scores/*/*/*/*/*.parquet')):,}"
            for how in ("worked out", "a record's"):
                if how == "a record's":
                    _record(lake)
                for who, ask in (("an audit", _audit), ("ttame query", _user)):
                    wall, cpu, lines = _timed(lambda ask=ask, lake=lake: ask(lake))
                    cells = (f"{wall:.2f}", f"{cpu:.2f}", str(lines))
                    table.add_row(f"{per_shard:,}", files, who, how, *cells)
    return table


def _audit(lake: Lake) -> pa.Table:
    with connect(lake) as db:
        db.execute(f"SET threads = {THREADS}")
        return db.sql("FROM leaderboard").to_arrow_table()


def _user(lake: Lake) -> pa.Table:
    return run_query(lake, "FROM leaderboard")


def _record(lake: Lake) -> None:
    """What an audit leaves of its leaderboard."""
    folder, state = "audits/nightly/20260101T000000Z", scores_state(lake, "d")
    board = _audit(lake).cast(LEADERBOARD)
    about = {"dataset": "d", "scores": state, "board": board_fingerprint(board)}
    lake.write_json(f"{folder}/record.json", about)
    lake.write_parquet(f"{folder}/leaderboard.parquet", board, LEADERBOARD, "x")


def _layouts() -> Table:
    """The same rows, a tenth of them, in other files."""
    images, per_shard = IMAGES // 10, SHARDS[0]
    written = list(scores(images, per_shard))
    rows = sum(len(found) for _, found in written)
    title = f"confidence, {rows:,} rows in {len(written)} files, {THREADS} threads"
    table = Table(title=title)
    for name in ("layout", "bytes/row", "written, s", "leaderboard, s of processor"):
        table.add_column(name, justify="right" if name != "layout" else "left")
    for layout, options in LAYOUTS.items():
        options = dict(options)
        by = options.pop("sort", None)
        with tempfile.TemporaryDirectory() as folder:
            lake, start = Lake(folder), time.process_time()
            for path, found in written:
                place = Path(lake.path(path))
                place.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(found.sort_by(by) if by else found, place, **options)
            took = time.process_time() - start
            size = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
            cpu = _timed(lambda lake=lake: _audit(lake))[1]
            table.add_row(layout, f"{size / rows:.1f}", f"{took:.2f}", f"{cpu:.2f}")
    return table


def _timed(ask: Callable[[], pa.Table]) -> tuple[float, float, int]:
    """Median seconds of wall and of processor time, the first round dropped, and the rows."""
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS + 1):
        wall, cpu = time.perf_counter(), _processor()
        found = ask()
        times.append((time.perf_counter() - wall, _processor() - cpu))
    walls, cpus = zip(*times[1:], strict=True)
    return median(walls), median(cpus), found.num_rows


def _processor() -> float:
    used = os.times()
    return used.user + used.system
