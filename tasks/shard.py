"""Tasks of the flow shard_dataset."""

from __future__ import annotations

import time
from typing import Any

from prefect import get_run_logger

from tasks.logs import event
from tasks.progress import bar
from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.data.index import count_rejected, finish_dataset, left_out
from ttame_core.data.plan import ShardPlan, plan_shards
from ttame_core.data.shards import write_shard
from ttame_core.lake import Lake


@unit("plan {dataset.name}")
def plan(dataset: spec.Dataset, workspace: str) -> ShardPlan:
    """List the inputs of a data set's source, and assign each to a shard."""
    with bar(f"list the inputs of {dataset.name}", ""):
        shards = plan_shards(dataset, Lake(workspace))
    for remark in shards.remarks:
        get_run_logger().info("data set %s: %s", dataset.name, remark)
    return shards


@unit("shard {dataset.name} {shards}")
def write(dataset: spec.Dataset, workspace: str, shards: ShardPlan) -> Any:
    """Write the tar file and the index of each shard in `shards`, a part of the data set's plan."""
    lake = Lake(workspace)
    made = 0
    for shard in shards.shards:
        begun = time.monotonic()
        if write_shard(dataset, lake, shards, shard):
            made += 1
            seconds = time.monotonic() - begun
            words = f"shard {dataset.name} {shard}: {seconds:.1f} s"
            event(words, shard=shard, seconds=round(seconds, 3))
    return None if made else skipped()


@unit("index {dataset.name}")
def finish(dataset: spec.Dataset, workspace: str, shards: ShardPlan) -> Any:
    """Merge the indexes of all shards into the index of the data set."""
    with bar(f"index {dataset.name}", ""):
        finish_dataset(dataset, Lake(workspace), shards)
    logger = get_run_logger()
    if sentence := left_out(count_rejected(Lake(workspace), dataset.name)):
        logger.warning("data set %s: %s", dataset.name, sentence)
    logger.info("data set %s is in %s", dataset.name, workspace)
