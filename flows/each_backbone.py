"""Running the units of many backbones: one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from prefect.tasks import Task

from flows.engine import Engine, Unit
from tasks.progress import progress
from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.stages.provenance import Provenance

TOGETHER = 8  # shards of a task run, at most
MOST = 5000  # task runs of a flow, roughly at most: docs/scale.md


class BackbonesFailed(Exception):
    """The error for backbones that failed, after the work on all others is done.

    Attributes:
        failures: the error of each backbone that failed, by its name.
    """

    def __init__(self, failures: Mapping[str, BaseException]) -> None:
        super().__init__("; ".join(f"{name}: {_words(e)}" for name, e in failures.items()))
        self.failures = dict(failures)

    def __reduce__(self) -> tuple[type[BackbonesFailed], tuple[dict[str, BaseException]]]:
        return BackbonesFailed, (self.failures,)

    @property
    def by_user(self) -> bool:
        """Say whether all failures are mistakes that the user can mend."""
        return all(isinstance(error, UserError) for error in self.failures.values())


def batches(shards: Sequence[str], backbones: int = 1, at_once: int = 1) -> list[list[list[str]]]:
    """Group the shards of each backbone into task runs, so that there is less to schedule.

    A worker's equal share of the shards that are left, over all backbones, is halved: that is the
    size of the next group. So groups become smaller, and all workers end at about the same time. A
    group has at most 8 shards (TOGETHER), or more where there would be too many groups (MOST).

    Args:
        shards: names of the shards, in order.
        backbones: number of backbones, each of which needs all shards.
        at_once: number of task runs that run at a time.

    Returns:
        For each backbone, its groups of shard names.
    """
    left = len(shards) * backbones
    most = max(TOGETHER, ceil(left / MOST))
    made: list[list[list[str]]] = []
    for _ in range(backbones):
        made.append([])
        first = 0
        while first < len(shards):
            some = list(shards[first : first + min(most, max(1, left // (2 * at_once)))])
            made[-1].append(some)
            first += len(some)
            left -= len(some)
    return made


def units_of_shards(
    task: Task[..., Any], provenance: Provenance, workspace: str, at_once: int
) -> list[Unit]:
    """Make the units of a task that works on shards: a unit is a backbone and a group of shards.

    Args:
        task: task that every unit runs.
        provenance: the audit; the shards of its split are grouped.
        workspace: folder or URL of the lake.
        at_once: number of units that run at a time.
    """
    audit = provenance.audit
    shards = [name for name, _ in provenance.shards(audit.maps.split)]
    common = {"audit": audit, "workspace": Lake(workspace).place}
    return [
        Unit(backbone.name, task, {**common, "backbone": backbone, "shards": some}, len(some))
        for backbone, its in zip(
            audit.backbones, batches(shards, len(audit.backbones), at_once), strict=True
        )
        for some in its
    ]


def run_units(title: str, engine: Engine, units: Sequence[Unit], gpus: int = 1) -> None:
    """Run units in their order; after a backbone's first failure its other units are left out.

    Args:
        title: title of the progress bar.
        engine: engine that runs the units.
        units: the units, ordered by backbone.
        gpus: number of GPUs that a unit needs.

    Raises:
        BackbonesFailed: some backbones failed; all units of the others have run.
    """
    failures: dict[str, BaseException] = {}
    done, total = 0, sum(unit.size for unit in units)
    with progress(title, "units") as report:

        def of_sound_backbones() -> Iterator[Unit]:
            nonlocal total
            for unit in units:
                if unit.of in failures:
                    total -= unit.size
                    continue
                report(done, total, unit.of)
                yield unit

        for unit, error in engine.run(of_sound_backbones(), gpus):
            done += unit.size
            if error:
                failures.setdefault(unit.of, error)
        report(done, total, "")
    if failures:
        raise BackbonesFailed(failures)


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
