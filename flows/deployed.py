"""The flows as prefect.yaml deploys them: stopped after some hours, tried again where that helps.

Every run is a resume, so another try goes on where the last one ended.
"""

from __future__ import annotations

from typing import Any

from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRunPolicy
from prefect.runtime import flow_run

from flows.audit_zoo import audit_zoo
from flows.dump_maps import dump_maps
from flows.each_backbone import BackbonesFailed
from flows.evaluate_maps import evaluate_maps
from tasks.unit import may_pass
from ttame_core.audits.gates import GatesFailed
from ttame_core.spec import AuditSpec

TRIES = 3
PAUSE = 600  # seconds between two tries


def _deployed(body: Flow[..., Any], hours: float) -> Flow[..., Any]:
    def run(spec: AuditSpec | str, workspace: str) -> Any:
        try:
            return body.fn(spec, workspace)
        except Exception as error:
            if not worth_another(error):
                _end_tries()
            raise

    return flow(  # type: ignore[call-overload]
        run,
        name=body.name,
        description=body.description,
        flow_run_name=body.flow_run_name,
        retries=TRIES - 1,
        retry_delay_seconds=PAUSE,
        timeout_seconds=hours * 3600,
    )


def worth_another(error: BaseException) -> bool:
    """Say whether another try of a flow could help.

    Another try cannot help where the user made a mistake, nor where a gate failed: it would compare
    the audit with its own failed record, and the gate would hold.
    """
    if isinstance(error, GatesFailed):
        return False
    if isinstance(error, BackbonesFailed):
        return any(map(may_pass, error.failures.values()))
    return may_pass(error)


def _end_tries() -> None:
    """Set the retries of this run to 0: flows of Prefect, unlike tasks, retry after any error."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, empirical_policy=FlowRunPolicy(retries=0))


nightly = _deployed(audit_zoo, hours=8)
weekly = _deployed(audit_zoo, hours=48)
dump = _deployed(dump_maps, hours=24 * 14)
rescore = _deployed(evaluate_maps, hours=24 * 7)
