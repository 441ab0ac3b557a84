"""Source and annotations → shards, index, annotations, rejected."""

from __future__ import annotations

from collections import deque
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.opening import named, open_spec
from tasks.progress import progress
from tasks.shard import finish, plan, write
from ttame_core.spec import AuditSpec


@flow(name="shard_dataset", flow_run_name=named("shard"), task_runner=ThreadPoolTaskRunner())
def shard_dataset(spec: AuditSpec | str, workspace: str) -> None:
    """Write the audit's data set into the workspace: the shards whose inputs changed."""
    audit = open_spec(spec)
    dataset = audit.dataset
    shards = plan(dataset, workspace)
    pending: deque[Any] = deque()
    with progress(f"shard {dataset.name}") as report:
        for started, name in enumerate(shards.shards, start=1):
            pending.append(write.submit(dataset, workspace, shards, name))
            while len(pending) >= audit.compute.workers or (
                pending and started == len(shards.shards)
            ):
                pending.popleft().result()
                report(started - len(pending), len(shards.shards), "")
    finish(dataset, workspace, shards)
