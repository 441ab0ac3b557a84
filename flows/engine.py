"""Engines that run units: one after another here, or many at a time on a task runner."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.tasks import Task

from flows import temporary_server
from flows.runners import Runner, runner_of, threads
from flows.stopping import deaf_children
from ttame_core.errors import UserError
from ttame_core.spec import TRUSTED, Compute, is_trusted

LIVES = 3  # times that a unit may be in flight when a process of the pool dies


@dataclass(eq=False)
class Unit:
    """A task with its parameters, ready to run.

    Attributes:
        of: name of the backbone or the data set that the unit works on.
        task: task to run.
        parameters: the task's parameters.
        size: number of shards that the unit works on; 1 for units that do not work on shards.
        lives: number of times that a process of the pool must die while the unit is in flight until
            the unit counts as failed. Each time lowers it by 1.
    """

    of: str
    task: Task[..., Any]
    parameters: dict[str, Any]
    size: int = 1
    lives: int = field(default=LIVES, init=False)


Outcome = tuple[Unit, BaseException | None]  # a unit that ended, and its error if it failed


class Here:
    """An engine that runs one unit after another, in the calling thread."""

    def room(self) -> int:
        """Return how many units can run at a time: one."""
        return 1

    def run(self, units: Iterator[Unit], gpus: int = 0) -> Iterator[Outcome]:
        """Run units and yield their outcomes as they come.

        Args:
            units: the units; the next one is taken when there is room for it, so that an outcome
                can decide whether it is still wanted.
            gpus: number of GPUs that a unit needs; only Dask and Ray count them.
        """
        for unit in units:
            state = unit.task(**unit.parameters, return_state=True)
            yield unit, None if state.is_completed() else state.result(raise_on_failure=False)


class Pool:
    """An engine that keeps as many units in flight as its task runner has room for."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._start()

    def _start(self) -> None:
        with deaf_children():
            self._open = self._runner.start()

    def close(self) -> None:
        """Stop the task runner and its workers."""
        self._open.__exit__(None, None, None)

    def room(self) -> int:
        """Return how many units can run now."""
        return max(1, self._runner.room())

    def run(self, units: Iterator[Unit], gpus: int = 0) -> Iterator[Outcome]:
        """Run many units at a time; yields their outcomes in the order in which they end.

        Args:
            units: the units, taken one by one as in `Here.run`.
            gpus: number of GPUs that a unit needs; only Dask and Ray count them.
        """
        running: dict[Any, Unit] = {}
        ended: SimpleQueue[Any] = SimpleQueue()
        while True:
            while len(running) < self.room() * self._runner.in_flight and (
                unit := next(units, None)
            ):
                self._submit(unit, gpus, running, ended)
            if not running:
                return
            future = ended.get()
            unit, error = running.pop(future), _error_of(future)
            if isinstance(error, BrokenProcessPool):
                # One process died, and the pool ended the others: any unit may be the cause.
                lost = [unit, *running.values()]
                running, ended = {}, SimpleQueue()
                self.close()
                self._start()
                for unit in lost:
                    unit.lives -= 1
                    if unit.lives:
                        self._submit(unit, gpus, running, ended)
                    else:
                        yield unit, error
                continue
            yield unit, error

    def _submit(
        self, unit: Unit, gpus: int, running: dict[Any, Unit], ended: SimpleQueue[Any]
    ) -> None:
        with self._runner.asking_for(gpus), deaf_children():
            future = self._open.submit(unit.task, unit.parameters)
        running[future] = unit
        future.add_done_callback(ended.put)


Engine = Here | Pool


def _error_of(future: Any) -> BaseException | None:
    try:
        future.result()
    except Exception as error:
        return error
    return None


_shared: ContextVar[Pool | None] = ContextVar("engine", default=None)


@contextmanager
def opened(compute: Compute) -> Iterator[Engine]:
    """Open the engine that a spec names; flows within a flow share the engine of the outer one.

    Args:
        compute: section `compute` of the spec.

    Raises:
        UserError: the engine is not installed, or its cluster does not answer.
    """
    if compute.engine == "threads":
        yield Here()
        return
    if shared := _shared.get():
        yield shared
        return
    if compute.address and not is_trusted(compute.address):
        raise UserError(
            f"compute.address is {compute.address}, and whoever runs that cluster may run code on "
            f"this machine: if you trust it, name it in the environment variable {TRUSTED}: "
            f"export {TRUSTED}={compute.address}"
        )
    if compute.address and (temporary_server.is_there() or not PREFECT_API_URL.value()):
        raise UserError(
            f"compute.address is {compute.address}, but there is no Prefect server that its "
            "workers can report to: set PREFECT_API_URL to one"
        )
    with (
        temporary_settings({PREFECT_API_URL: _api_url()}),
        closing(Pool(runner_of(compute))) as pool,
    ):
        token = _shared.set(pool)
        try:
            yield pool
        finally:
            _shared.reset(token)


@contextmanager
def opened_without_networks(compute: Compute) -> Iterator[Engine]:
    """Open an engine for units that use no neural network; threads of one process may run them."""
    if compute.engine != "threads":
        with opened(compute) as engine:
            yield engine
    else:
        with closing(Pool(threads(compute.workers))) as pool:
            yield pool


@contextmanager
def opened_for_training(compute: Compute) -> Iterator[Engine]:
    """Open an engine for trainings; heads that take several devices each are trained in turn."""
    if compute.engine == "processes" and compute.devices > 1:
        yield Here()
    else:
        with opened(compute) as engine:
            yield engine


def _api_url() -> str:
    """Return the address of the Prefect server that workers report to.

    Where PREFECT_API_URL is not set, that is the temporary server of this process: otherwise each
    worker would start its own.
    """
    with get_client(sync_client=True) as client:
        return str(client.api_url).rstrip("/")
