"""Export of an audit's record to MLflow: the leaderboard as metrics, the settings, the report."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ttame_core.errors import UserError, nearest
from ttame_core.lake import AUDIT_TIME, Lake, audit_folder
from ttame_core.lake.records import check_record, read_board, records
from ttame_core.lake.schemas import BACKBONE
from ttame_core.spec import parse_yaml

FILES = ("report.html", "images.html", "pictures/*", "contact-sheet.png", "*.yaml",
         "leaderboard.parquet", "changes.parquet")  # fmt: skip
RECORD = "ttame.record"  # tag of a run: the audit's name and time
AT_ONCE = 100  # parameters that MLflow takes in one request; it takes more metrics
LONGEST = 6000  # characters that MLflow takes in a parameter


def find_record(lake: Lake, audit: str) -> tuple[str, str]:
    """Return name and time of a record.

    Args:
        lake: the workspace.
        audit: NAME for the latest record of the name, NAME@previous, or NAME/TIME.

    Raises:
        UserError: there is no such record.
    """
    whole = [(folder.split("/")[1], folder.split("/")[2]) for folder in records(lake)]
    name, _, which = audit.partition("@")
    name, _, time = name.partition("/")
    own = [record for record in whole if record[0] == name]
    matching = [record for record in own if time in ("", record[1])]
    back = {"": 1, "latest": 1, "previous": 2}.get(which, len(matching) + 1)
    if back > len(matching):
        known = sorted({name for name, _ in whole}) if not own else ["/".join(r) for r in own]
        others = f"it has {', '.join(known)}" if known else "it has no audits yet"
        raise UserError(f"{lake} has no audit {audit}; {others}.{nearest(audit, known)}")
    return matching[-back]


def export_record(lake: Lake, audit: str, to: str | None = None) -> str:
    """Write an audit's record to MLflow, unless it is there already.

    The experiment has the audit's name. A run stands for the audit and has the report; below it, a
    run for each backbone and explainer has the metrics.

    Args:
        lake: the workspace.
        audit: NAME, NAME@previous or NAME/TIME, as in `find_record`.
        to: MLflow's tracking URI; None for MLflow's own choice (MLFLOW_TRACKING_URI).

    Returns:
        A sentence on what was done.

    Raises:
        UserError: there is no such record, or MLflow is not installed or does not answer.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default takes minutes
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise UserError("MLflow is not installed: pip install 'ttame[mlflow]'") from None
    name, time = find_record(lake, audit)
    try:
        client = MlflowClient(to)
        return _Export(client, lake, name, time).write()
    except MlflowException as error:
        words = re.sub(r"//[^/@\s]+@", "//", " ".join(str(error).split()))  # no credentials
        raise UserError(f"MLflow says: {words}") from error


class _Export:
    def __init__(self, client: Any, lake: Lake, name: str, time: str) -> None:
        self.client, self.lake, self.name = client, lake, name
        self.record, self.folder = f"{name}/{time}", audit_folder(name, time)
        when = datetime.strptime(time, AUDIT_TIME).replace(tzinfo=UTC)
        self.milliseconds = int(when.timestamp() * 1000)
        self.time = time

    def write(self) -> str:
        experiment = self._experiment()
        there = self.client.search_runs([experiment], f"tags.`{RECORD}` = '{self.record}'")
        if any(run.info.status == "FINISHED" and "mlflow.parentRunId" not in run.data.tags
               for run in there):  # fmt: skip
            return f"{self.record} is in MLflow already, in the experiment {self.name}"
        for run in there:  # runs of an export that was cut short
            self.client.delete_run(run.info.run_id)
        about = check_record(self.lake, self.folder)
        _, spec = parse_yaml(self.lake.read_document(f"{self.folder}/spec.yaml").decode())
        board = read_board(self.lake, self.folder).to_pylist()
        lists = {section: spec.pop(section) for section in ("backbones", "explainers")}
        whole = self._begin(experiment, f"{self.name} {self.time}")
        self._parameters(whole, {**spec, "versions": about.versions})
        sections = {
            (kind, section["name"]): section for kind, listed in lists.items() for section in listed
        }
        pairs = sorted(
            {(r["backbone"], r["explainer"]) for r in board if r["explainer"] != BACKBONE}
        )
        for backbone, explainer in pairs:
            run = self._begin(experiment, f"{backbone} {explainer}", whole)
            own = {
                "dataset": {"name": spec["dataset"]["name"]},
                "backbone": sections["backbones", backbone],
                "explainer": sections["explainers", explainer],
            }
            self._parameters(run, own)
            rows = [r for r in board if r["backbone"] == backbone]
            self._metrics(run, [r for r in rows if r["explainer"] in (explainer, BACKBONE)])
            self.client.set_terminated(run, end_time=self.milliseconds)
        for pattern in FILES:
            for path in self.lake.glob(f"{self.folder}/{pattern}"):
                below = path[len(self.folder) + 1 :].rpartition("/")[0]
                with self.lake.local_copy(path) as local:
                    self.client.log_artifact(whole, local, below or None)
        self.client.set_terminated(whole, end_time=self.milliseconds)
        return f"{self.record}: {len(pairs) + 1} runs in the experiment {self.name} of MLflow"

    def _experiment(self) -> str:
        experiment = self.client.get_experiment_by_name(self.name)
        return experiment.experiment_id if experiment else self.client.create_experiment(self.name)

    def _begin(self, experiment: str, called: str, parent: str | None = None) -> str:
        tags = {RECORD: self.record} | ({"mlflow.parentRunId": parent} if parent else {})
        run = self.client.create_run(experiment, self.milliseconds, tags, called)
        return run.info.run_id

    def _parameters(self, run: str, given: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(allowed(key), str(value)[:LONGEST]) for key, value in _flat(given)]
        for first in range(0, len(params), AT_ONCE):
            self.client.log_batch(run, params=params[first : first + AT_ONCE])

    def _metrics(self, run: str, rows: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        values = [
            Metric(allowed(row["metric"]) + suffix, row[column], self.milliseconds, 0)
            for row in rows
            for column, suffix in (("value", ""), ("ci_low", ".low"), ("ci_high", ".high"))
            if row[column] is not None
        ]
        for first in range(0, len(values), AT_ONCE):
            self.client.log_batch(run, metrics=values[first : first + AT_ONCE])


def allowed(name: str) -> str:
    """Return a metric's name in the form that MLflow takes, such as AD_at_15 for AD@15."""
    return re.sub(r"[^\w.\- :/]", "_", name.replace("@", "_at_"))


def _flat(given: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield keys, joined by dots, and values of nested mappings, without empty values."""
    for key, value in given.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value
