"""Running the units of many backbones: one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from prefect.tasks import Task

from flows.engine import Engine, Unit
from flows.opening import place_of
from tasks.progress import progress
from ttame_core.errors import UserError
from ttame_core.provenance import Provenance

MOST = 5000  # about so many task runs has a flow at most: docs/scale.md


class BackbonesFailed(Exception):
    """Some backbones could not be dealt with; the others were. failures: by backbone."""

    def __init__(self, failures: Mapping[str, BaseException]) -> None:
        super().__init__("; ".join(f"{name}: {_words(e)}" for name, e in failures.items()))
        self.failures = dict(failures)

    def __reduce__(self) -> tuple[type[BackbonesFailed], tuple[dict[str, BaseException]]]:
        return BackbonesFailed, (self.failures,)

    @property
    def by_user(self) -> bool:
        """Whether all are mistakes that the user can mend."""
        return all(isinstance(error, UserError) for error in self.failures.values())


def batches(shards: Sequence[str], times: int = 1) -> list[list[str]]:
    """The shards in order, so many together that `times` as many batches are about MOST."""
    size = max(1, ceil(len(shards) * times / MOST))
    return [list(shards[first : first + size]) for first in range(0, len(shards), size)]


def units_of_shards(task: Task[..., Any], provenance: Provenance, workspace: str) -> list[Unit]:
    """A unit of `task` for each backbone and some of the shards of the audit's split."""
    audit = provenance.audit
    shards = [name for name, _ in provenance.shards(audit.maps.split)]
    common = {"audit": audit, "workspace": place_of(workspace)}
    return [
        Unit(b.name, task, {**common, "backbone": b, "shards": some}, len(some))
        for b in audit.backbones
        for some in batches(shards, len(audit.backbones))
    ]


def run_units(title: str, engine: Engine, units: Sequence[Unit], gpus: int = 1) -> None:
    """Run units, in order by backbone; the first failure ends that backbone's.

    gpus: how many each needs. Raises BackbonesFailed when all are through.
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
