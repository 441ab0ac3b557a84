"""Source and annotations → shards, index, annotations, rejected."""

from __future__ import annotations

from flows.audit_flow import flow
from flows.each_backbone import batches
from flows.engine import Unit, opened_without_networks
from flows.open_audit import named, open_spec
from tasks.progress import progress
from tasks.shard import finish, plan, write
from ttame_core.data.plan import ShardPlan
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec


@flow(name="shard_dataset", flow_run_name=named("shard"))
def shard_dataset(spec: AuditSpec | str, workspace: str, planned: ShardPlan | None = None) -> None:
    """Write the audit's data set into the workspace; only shards whose inputs changed are written.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.
        planned: the plan of the shards, where it was made just before.
    """
    audit = open_spec(spec)
    dataset = audit.dataset
    common = {"dataset": dataset, "workspace": Lake(workspace).place}
    shards = planned or plan(dataset, workspace)
    with (
        progress(f"shard {dataset.name}", "shards") as report,
        opened_without_networks(audit.compute) as engine,
    ):
        units = (
            Unit(dataset.name, write, {**common, "shards": shards.part(some)}, len(some))
            for some in batches(shards.shards, at_once=engine.room())[0]
        )
        done = 0
        for unit, error in engine.run(units):
            if error:
                raise error
            done += unit.size
            report(done, len(shards.shards), "")
    finish(dataset, workspace, shards)  # type: ignore[unused-coroutine]
