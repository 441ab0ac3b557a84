"""Running the units of many backbones: one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.progress import progress
from ttame_core.errors import UserError

Run = Callable[[], Any]  # runs a task, gives its state


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


def run_units(title: str, units: Mapping[str, Sequence[Run]]) -> None:
    """Run each backbone's units one after another; the first failure ends that backbone's.

    Raises BackbonesFailed when all are through.
    """
    failures: dict[str, BaseException] = {}
    total = sum(len(runs) for runs in units.values())
    done = 0
    with progress(title) as report:
        for backbone, runs in units.items():
            for run in runs:
                report(done, total, backbone)
                state = run()
                done += 1
                if not state.is_completed():
                    failures[backbone] = state.result(raise_on_failure=False)
                    total -= len(runs) - runs.index(run) - 1
                    break
        report(done, total, "")
    if failures:
        raise BackbonesFailed(failures)


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
