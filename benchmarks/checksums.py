"""What hashes cost: their share of the processor time of an audit, in the same run."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from rich.table import Table

from harness.audits import AUDIT, audit_once
from ttame_core.data import loader, shards
from ttame_core.lake import Lake, seals

TEST = 600  # images that are explained and scored
HASHED = (
    (seals, "seal", "hash written into a Parquet file"),
    (seals, "is_broken", "Parquet file compared with its hash"),
    (Lake, "sha256", "hash of a tar, of weights, of a record's file"),
    (shards, "_sha256", "hash of a new tar"),
    (loader, "image_bytes", "picture compared with its hash"),
)


def compare() -> Table:
    """Run an audit with its hashes timed, and again where nothing is left to do."""
    table = Table(title=f"hashes of an audit of {TEST} images", caption="of the processor time")
    table.add_column("")
    for name in ("first run", "again"):
        table.add_column(name, justify="right")
    source = AUDIT.dataset.source.model_copy(update={"test": TEST, "size": 96})
    dataset = AUDIT.dataset.model_copy(update={"source": source, "samples_per_shard": 200})
    audit = AUDIT.model_copy(update={"dataset": dataset})
    with tempfile.TemporaryDirectory() as workspace:
        runs = [_timed(lambda: audit_once(audit, workspace)) for _ in range(2)]
    for _, name, words in HASHED:
        table.add_row(words, *(f"{100 * seconds[name] / whole:.2f} %" for seconds, whole in runs))
    shares = [f"{100 * sum(seconds.values()) / whole:.2f} %" for seconds, whole in runs]
    table.add_row("together", *shares)
    table.add_row("seconds of the whole", *(f"{whole:.1f}" for _, whole in runs))
    return table


def _timed(run: Callable[[], None]) -> tuple[dict[str, float], float]:
    """Return the processor seconds of each function of HASHED, and those of the whole run."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                seconds[name] += time.thread_time() - begun

        return call

    patches = [patch.object(of, name, timed(getattr(of, name), name)) for of, name, _ in HASHED]
    for one in patches:
        one.start()
    begun = time.process_time()
    try:
        run()
    finally:
        for one in patches:
            one.stop()
    return seconds, time.process_time() - begun
