"""Names of task runs, and the stage, data set, backbone and explainer that they tell."""

from __future__ import annotations

import re

# As the tasks name their runs (`unit` of each).
TASKS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<stage>plan|shard|index) (?P<dataset>\S+)",
        r"(?P<stage>fit) (?P<backbone>\S+)$",
        r"(?P<stage>train) (?P<explainer>\S+) on (?P<backbone>\S+)$",
        r"(?P<stage>trial) \d+ of (?P<explainer>\S+) on (?P<backbone>\S+)$",
        r"(?P<stage>explain|evaluate) .* of (?P<backbone>\S+)$",
        r"(?P<stage>report) (?P<dataset>\S+)$",
    )
)
STAGE = {"plan": "shard", "index": "shard", "trial": "sweep"}


def names_of(task_run: str) -> dict[str, str] | None:
    """Read stage, data set, backbone and explainer out of a name, as far as it tells them.

    For a report the data set is the name of its audit. None for runs that are no unit's.
    """
    for pattern in TASKS:
        if found := pattern.match(task_run):
            said = found.groupdict()
            return {**said, "stage": STAGE.get(said["stage"], said["stage"])}
    return None
