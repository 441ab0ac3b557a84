"""Task runs that a Prefect server on this machine takes in, and what one costs its sender."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.runtime import flow_run
from rich.table import Table

from flows.engine import Here, Unit
from tasks.unit import unit

RUNS = 1000
PATIENCE = 300.0  # seconds that the server gets to record them


@unit("nothing {number}")
def nothing(number: int) -> None:
    """A task run with no work in it."""


@flow
def many(runs: int) -> tuple[float, float]:
    """Seconds to make the runs, and until the server has recorded them all."""

    def units() -> Iterator[Unit]:
        for number in range(runs):
            yield Unit("nothing", nothing, {"number": number})

    start = time.perf_counter()
    assert not any(error for _, error in Here().run(units()))
    made = time.perf_counter() - start
    mine = FlowRunFilter.model_validate({"id": {"any_": [flow_run.id]}})
    with get_client(sync_client=True) as client:
        while time.perf_counter() - start < PATIENCE:
            if _recorded(client, mine) >= runs:
                break
            time.sleep(0.2)
    return made, time.perf_counter() - start


def _recorded(client: object, mine: FlowRunFilter) -> int:
    body = {"flow_runs": mine.model_dump(mode="json")}
    answer = client.request("POST", "/task_runs/count", json=body)  # type: ignore[attr-defined]
    return int(answer.json())


def compare() -> Table:
    made, recorded = many(RUNS)
    table = Table(title=f"{RUNS} task runs with nothing to do, a temporary server on this machine")
    for name in ("", "task runs/s", "ms each"):
        table.add_column(name, justify="left" if not name else "right")
    for name, taken in (("run by one process", made), ("recorded by the server", recorded)):
        table.add_row(name, f"{RUNS / taken:.1f}", f"{1000 * taken / RUNS:.0f}")
    return table
