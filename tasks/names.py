"""Names of task runs, and the stage, data set, backbone and explainer in them."""

from __future__ import annotations

import re

# The names that the tasks give their runs with the decorator `unit`.
TASKS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<stage>plan|shard|index) (?P<dataset>\S+)",
        r"(?P<stage>fit) (?P<backbone>\S+)$",
        r"(?P<stage>train) (?P<explainer>\S+) on (?P<backbone>\S+)$",
        r"(?P<stage>trial) \d+ of (?P<explainer>\S+) on (?P<backbone>\S+)$",
        r"(?P<stage>explain|evaluate) .* of (?P<backbone>\S+)$",
        r"(?P<stage>paste) on (?P<backbone>\S+)$",
        r"(?P<stage>report) (?P<dataset>\S+)$",
    )
)
STAGE = {"plan": "shard", "index": "shard", "trial": "sweep"}


def names_of(task_run: str) -> dict[str, str] | None:
    """Read stage, data set, backbone and explainer from the name of a task run.

    Returns:
        Those that the name has, by the keys `stage`, `dataset`, `backbone` and `explainer`; for a
        report, `dataset` is the name of the audit. None where the task run is not of a unit.
    """
    for pattern in TASKS:
        if match := pattern.match(task_run):
            said = match.groupdict()
            return {**said, "stage": STAGE.get(said["stage"], said["stage"])}
    return None
