"""Tasks of the flow shard_dataset."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from tasks.unit import skipped, unit
from ttame_core import spec
from ttame_core.data.sharding import ShardPlan, finish_dataset, plan_shards, write_shard
from ttame_core.lake import Lake


@unit("plan {dataset.name}")
def plan(dataset: spec.Dataset, workspace: str) -> ShardPlan:
    """List the source's inputs and say which shard each goes to."""
    return plan_shards(dataset, Lake(workspace))


@unit("shard {dataset.name} {shards}")
def write(dataset: spec.Dataset, workspace: str, shards: ShardPlan) -> Any:
    """Write the tar and the index of each shard of a part of the plan."""
    lake = Lake(workspace)
    made = [write_shard(dataset, lake, shards, shard) for shard in shards.shards]
    return None if any(made) else skipped()


@unit("index {dataset.name}")
def finish(dataset: spec.Dataset, workspace: str, shards: ShardPlan) -> Any:
    """Gather the shards' indexes into the data set's."""
    finish_dataset(dataset, Lake(workspace), shards)
    get_run_logger().info("data set %s is in %s", dataset.name, workspace)
