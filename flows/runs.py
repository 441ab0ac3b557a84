"""The runs over one workspace that a Prefect server knows: those that run and those that failed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tasks.names import names_of
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.spec import load_spec
from ttame_core.storage import without_password

FLOWS = (
    "audit_zoo",
    "shard_dataset",
    "fit_backbones",
    "train_heads",
    "sweep_training",
    "explain_dataset",
    "evaluate_maps",
    "paste_marked",
    "dump_maps",
    "import_maps",
)
# Variables by which Prefect may know a server, and files of others that may speak of it.
VARIABLES = {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}
SHARED = (".env", "pyproject.toml")
LOOKED_AT = 100  # at most so many flow runs, the newest first, and so many task runs
Names = tuple[str, str, str, str]  # stage, data set or audit, backbone, explainer; '' for any


@dataclass
class Runs:
    """The runs over a workspace that a Prefect server knows.

    Attributes:
        source: a sentence on where the numbers come from.
        running: number of running task runs, by stage, data set, backbone and explainer.
        failed: number of failed task runs, by the same.
        sentences: a sentence for each run that goes on or failed.
    """

    source: str
    running: Counter[Names] = field(default_factory=Counter)
    failed: Counter[Names] = field(default_factory=Counter)
    sentences: list[str] = field(default_factory=list)


def recent_runs(workspace: str, audit: str | None = None) -> Runs:
    """Ask the Prefect server about the last run of each audit over a workspace.

    Args:
        workspace: folder or URL of the lake.
        audit: name of one audit; None for all.

    Returns:
        The runs; only `source` where PREFECT_API_URL is not set or the server does not answer.
    """
    from_files = "running and failed: as the files say"
    unknown = Runs(f"{from_files}, for no PREFECT_API_URL is set")
    if not _server_may_be_named():
        return unknown
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    if not (url := PREFECT_API_URL.value()):
        return unknown
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    shown = without_password(url)
    runs = Runs(f"running and failed: as {shown} and the files say")
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True) as client,
        ):
            _ask(client, workspace, audit, runs)
    except (HTTPError, PrefectException, OSError):
        return Runs(f"{from_files}, for {shown} does not answer")
    return runs


def _server_may_be_named() -> bool:
    """Say whether there is anything that could name a server, without importing Prefect."""
    home = os.environ.get("PREFECT_HOME") or Path.home() / ".prefect"
    own = Path(home, "profiles.toml"), Path("prefect.toml")
    given = {name.upper() for name, value in os.environ.items() if value}
    imported = "prefect" in sys.modules  # whose settings may have been changed in this process
    return bool(
        imported
        or given & VARIABLES
        or any(path.exists() for path in own)
        or any(
            b"prefect" in Path(name).read_bytes().lower() for name in SHARED if os.path.isfile(name)
        )
    )


def _ask(client: Any, workspace: str, audit: str | None, runs: Runs) -> None:
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    newest = client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": FLOWS}}),
        flow_run_filter=FlowRunFilter.model_validate(
            {"parent_task_run_id": {"is_null_": True}, "start_time": {"is_null_": False}}
        ),
        sort=FlowRunSort.START_TIME_DESC,
        limit=LOOKED_AT,
    )
    last: dict[str, Any] = {}  # an audit's last run: an older one that was killed seems to run on
    name_in = cache(_name_in)  # runs of one deployment have the same file
    for run in newest:
        if _same_place(run.parameters.get("workspace"), workspace):
            name = _audit_of(run, name_in)
            if audit in (None, name):
                last.setdefault(name, run)
    if not last:
        return
    for run in last.values():
        if run.state and run.state.is_running():
            since = f"{run.start_time:%Y-%m-%d %H:%M} UTC" if run.start_time else "now"
            runs.sentences.append(f"{run.name} runs since {since}")
        elif run.state and (run.state.is_failed() or run.state.is_crashed()):
            runs.sentences.append(f"{run.name} failed: {run.state.message}")
    _count_tasks(client, [run.id for run in last.values()], runs)


def _count_tasks(client: Any, flow_runs: Iterable[Any], runs: Runs) -> None:
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter

    ids = [str(i) for i in flow_runs]
    below = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": ids}}),
        limit=LOOKED_AT,
    )
    ids += [str(run.id) for run in below]
    wanted = {
        "flow_run_id": {"any_": ids},
        "state": {"type": {"any_": ["RUNNING", "FAILED", "CRASHED"]}},
    }
    for task in client.read_task_runs(
        task_run_filter=TaskRunFilter.model_validate(wanted), limit=LOOKED_AT
    ):
        names = _names_of(task.name)
        if names is None:
            continue  # a flow within a flow, which Prefect lists as a task run too
        if task.state.is_running():
            runs.running[names] += 1
        else:
            runs.failed[names] += 1
            runs.sentences.append(f"{task.name} failed: {task.state.message}")


def _names_of(task_run: str) -> Names | None:
    said = names_of(task_run)
    if said is None:
        return None
    rest = (said.get(name, "") for name in ("dataset", "backbone", "explainer"))
    return said["stage"], *rest  # type: ignore[return-value]


def _audit_of(run: Any, name_in: Callable[[str], str]) -> str:
    """Return the name of a run's audit, whose spec may be given as the path of a file."""
    spec = run.parameters.get("spec")
    return str(spec.get("name")) if isinstance(spec, dict) else name_in(str(spec))


def _name_in(path: str) -> str:
    """Return the name of the spec in a file, or the path of a file that cannot be read."""
    with suppress(UserError):
        return load_spec(path).name
    return path


def _same_place(theirs: Any, ours: str) -> bool:
    """Say whether two addresses name one workspace; a run's may be relative to its own folder."""
    return isinstance(theirs, str) and Lake(theirs).root == Lake(ours).root
