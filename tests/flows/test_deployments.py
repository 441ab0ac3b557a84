"""prefect.yaml, deployed to a real server and run by a real worker."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import forked
import pytest
import yaml
from forked import PATIENCE
from prefect import flow
from prefect_server import ask

from flows import deployed
from flows.each_backbone import BackbonesFailed
from ttame_core.audits.gates import GatesFailed
from ttame_core.audits.specification import open_spec
from ttame_core.errors import StoreAway, UserError

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


class Server:
    """A Prefect server with all deployments: its command line and its API."""

    def __init__(self, env: dict[str, str], forks: ForkServerContext, spec: Path) -> None:
        self.forks = forks
        self.env = env | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
        self.spec = spec
        self.workspace = spec.parent / "workspace"

    def prefect(self, *arguments: str) -> str:
        words = ["--no-prompt", *arguments]
        result = forked.run(self.forks, words, ROOT, {}, PATIENCE, "prefect.cli:app")
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def api(self, path: str, body: dict | None = None) -> Any:
        return ask(self.env, path, body)

    def deployment(self, name: str) -> dict:
        return self.api(f"deployments/name/{name}")

    def start(self, name: str, **parameters: str) -> str:
        """A run of a deployment on the small audit; its id."""
        parameters = {"spec": str(self.spec), "workspace": str(self.workspace)} | parameters
        place = f"deployments/{self.deployment(name)['id']}/create_flow_run"
        return self.api(place, {"parameters": parameters})["id"]

    def ended(self, run: str) -> dict:
        found = _when(lambda: self.api(f"flow_runs/{run}"), lambda r: r["end_time"])
        assert found["end_time"], found["state"]
        return found


def _when(question: Callable[[], Any], there: Callable[[Any], Any]) -> Any:
    """What is answered once it is as wanted, or after a long time."""
    deadline = time.monotonic() + PATIENCE
    while not there(answer := question()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


@pytest.fixture(scope="session")  # as the server: slow tests of this file run before the others
def deployments(
    server: dict[str, str],
    forks: ForkServerContext,
    small_audit: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    found = Server(server, forks, small_audit(tmp_path_factory.mktemp("deployed")))
    found.prefect("work-pool", "create", "ttame", "--type", "process")
    found.prefect("deploy", "--all")
    return found


@pytest.fixture(scope="module")
def worker(deployments: Server) -> Iterator[Server]:
    """As docs/schedules.md starts one for each device."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ttame"]
    with (deployments.spec.parent / "worker.log").open("w") as log:
        often = {"PREFECT_WORKER_QUERY_SECONDS": "1"}  # asks for what is due
        process = subprocess.Popen(
            [*command, "--limit", "1"],
            env=deployments.env | often,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        yield deployments
        process.kill()  # asked to end, Prefect's worker may wait for ever
        process.wait()


def test_all_that_prefect_yaml_says_is_on_the_server(deployments: Server) -> None:
    found = {d["name"]: d for d in deployments.api("deployments/filter", {})}
    assert found.keys() == {wanted["name"] for wanted in DEPLOYMENTS}
    for wanted in DEPLOYMENTS:
        there = found[wanted["name"]]
        assert there["parameters"] == wanted["parameters"]
        assert there["tags"] == wanted["tags"]
        assert there["work_pool_name"] == "ttame"
        limit = wanted["concurrency_limit"]
        assert there["global_concurrency_limit"]["limit"] == 1
        if limit != 1:  # what is due while the last one runs is left out
            assert there["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
        assert [s["schedule"]["cron"] for s in there["schedules"]] == [
            s["cron"] for s in wanted.get("schedules", [])
        ]
        open_spec(ROOT / wanted["parameters"]["spec"])
    assert len(found["nightly"]["schedules"]) == len(found["weekly"]["schedules"]) == 1
    assert not found["dump"]["schedules"] + found["rescore"]["schedules"]
    for body in (deployed.nightly, deployed.weekly, deployed.dump, deployed.rescore):
        assert body.retries == 2
        assert body.timeout_seconds


@pytest.mark.long
def test_an_audit_and_a_dump_started_at_once_take_turns_on_a_device(worker: Server) -> None:
    audit, dump = worker.start("audit_zoo/nightly"), worker.start("dump_maps/dump")
    runs = [worker.ended(run) for run in (audit, dump)]
    assert [run["state"]["type"] for run in runs] == ["COMPLETED"] * 2
    first, second = sorted(runs, key=lambda run: run["start_time"])
    assert first["end_time"] <= second["start_time"]
    (record,) = (worker.workspace / "audits/small").iterdir()
    assert {"leaderboard.parquet", "report.html"} <= {path.name for path in record.iterdir()}
    left = worker.api("artifacts/filter", {"flow_runs": {"id": {"any_": [audit]}}})
    by_key = {artifact["key"]: artifact["data"] for artifact in left}
    assert {"small-leaderboard", "small-gallery", "small-report"} <= by_key.keys()
    assert "AD@15" in by_key["small-leaderboard"]
    made = worker.api("task_runs/filter", {"flow_runs": {"id": {"any_": _within(worker, dump)}}})
    assert {"explain test-000000 of net", "train ttame on net"} <= {run["name"] for run in made}
    assert not [run for run in made if run["name"].startswith(("evaluate", "report"))]


def _within(server: Server, run: str) -> list[str]:
    """A run's own flow runs."""
    found = server.api("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})
    return [flow["id"] for flow in found]


def test_a_schedule_is_paused_and_resumed(deployments: Server) -> None:
    def active() -> list[bool]:
        return [s["active"] for s in deployments.deployment("audit_zoo/nightly")["schedules"]]

    assert active() == [True]
    (schedule,) = deployments.deployment("audit_zoo/nightly")["schedules"]
    for command, state in (("pause", [False]), ("resume", [True])):
        deployments.prefect("deployment", "schedule", command, "audit_zoo/nightly", schedule["id"])
        assert active() == state


@pytest.mark.slow
def test_gates_that_fail_are_not_tried_again_and_an_automation_acts(worker: Server) -> None:
    worker.prefect("automation", "create", "--from-file", "automations.yaml")
    gated = yaml.safe_load(worker.spec.read_text())
    gated |= {"name": "nightly-gated", "gates": [{"accuracy": {"at_least": 101}}]}
    gated |= {"explainers": ["center"], "evaluation": {"metrics": ["shape"]}}
    spec = worker.spec.with_name("gated.yaml")
    spec.write_text(yaml.safe_dump(gated))
    run = worker.ended(worker.start("audit_zoo/weekly", spec=str(spec)))
    assert (run["state"]["type"], run["run_count"]) == ("FAILED", 1)
    assert "at least 101 is asked for" in run["state"]["message"]
    assert _when(lambda: worker.deployment("audit_zoo/weekly")["paused"], bool)
    place = f"/deployments/{worker.deployment('audit_zoo/weekly')['id']}/resume_deployment"
    worker.prefect("api", "POST", place)
    assert not worker.deployment("audit_zoo/weekly")["paused"]


def tried() -> None:
    """A program: a flow is deployed whose stage ends, while the flow fails two times."""
    stages = []

    @flow
    def stage() -> None:
        stages.append("stage")

    @flow
    def body(spec: str, workspace: str) -> None:
        stage()
        if len(stages) < 3:
            raise OSError("away")

    deployed.PAUSE = 0
    print(deployed._deployed(body, hours=1)("", "", return_state=True).name, len(stages))


def test_another_try_runs_all_stages_again(forks: ForkServerContext) -> None:
    run = forked.run(forks, [], ROOT, {}, PATIENCE, f"{__name__}:{tried.__name__}")
    assert run.stdout.split() == ["Completed", "3"], run.stderr


def test_no_try_is_wasted_on_what_time_does_not_mend() -> None:
    typo, away, passing = UserError("typo"), StoreAway("away"), OSError("away")
    assert [deployed.worth_another(error) for error in (typo, away, passing)] == [False, True, True]
    assert not deployed.worth_another(BackbonesFailed({"net": typo}))
    assert deployed.worth_another(BackbonesFailed({"net": typo, "other": passing}))
    assert not deployed.worth_another(GatesFailed(["worse"]))
