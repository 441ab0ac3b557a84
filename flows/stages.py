"""Run stage after stage; a backbone that fails in one stage is left out of the following ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.each_backbone import BackbonesFailed
from flows.engine import opened
from flows.shard_dataset import shard_dataset
from tasks.check import check
from tasks.shard import plan
from ttame_core.spec import AuditSpec


def run_stages(
    stages: Sequence[Flow[..., Any]], audit: AuditSpec, workspace: str
) -> dict[str, BaseException]:
    """Check all that can be known before, shard the data set, then run the stages on one engine.

    Args:
        stages: flows, in order.
        audit: the spec.
        workspace: folder or URL of the lake.

    Returns:
        The error of each backbone that failed, by its name.
    """
    failures: dict[str, BaseException] = {}
    # Only the outer flow sends heartbeats: stopping those of an inner flow would take a second.
    hearts = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    with hearts, opened(audit.compute):  # one engine for all stages
        shards = plan(audit.dataset, workspace)
        check(audit, workspace, shards)
        shard_dataset(audit, workspace, shards)
        for stage in stages:
            left = [b for b in audit.backbones if b.name not in failures]
            if not left:
                break
            part = audit.model_copy(update={"backbones": left})
            state: State[Any] = stage(part, workspace, return_state=True)  # type: ignore[assignment]
            if not state.is_completed():
                error = state.result(raise_on_failure=False)
                if not isinstance(error, BackbonesFailed):
                    raise error
                failures |= error.failures
    return failures
