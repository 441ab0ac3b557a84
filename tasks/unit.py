"""The decorator of all tasks: readable names, retries after passing errors, skipping."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

import tasks.messages  # noqa: F401
from ttame_core.errors import StoreAway, UserError
from ttame_core.explainers import NotApplicable
from ttame_core.stopping import asked

P = ParamSpec("P")
R = TypeVar("R")


def may_pass(error: BaseException) -> bool:
    """Say whether another try could help: never after a user's mistake or a signal to stop."""
    if asked():
        return False
    return isinstance(error, StoreAway) or not isinstance(error, UserError | NotApplicable)


def _retry(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and may_pass(error)


def unit(run_name: str, retries: int = 2) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a decorator that turns a function into a Prefect task for one unit of work.

    A task that is run again leaves the same files in the lake, so that Prefect may try it again.

    Args:
        run_name: pattern of the task runs' names, with the task's parameters in braces.
        retries: number of tries after the first, at most 2.
    """
    return task(
        task_run_name=partial(_name, run_name),
        retries=retries,
        retry_delay_seconds=[2.0, 20.0][:retries],
        retry_condition_fn=_retry,
        cache_policy=NO_CACHE,  # the lake knows what is there
        persist_result=False,
    )


def _name(pattern: str, parameters: dict[str, Any]) -> str:
    """Fill a pattern with a task's parameters; several shards are written as `first to last`."""
    shards = parameters.get("shards")
    if shards is not None:
        names = [*getattr(shards, "shards", shards)] or ["no shard"]
        text = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        parameters = {**parameters, "shards": text}
    return pattern.format(**parameters)


def skipped() -> State[Any]:
    """Return the state of a unit whose files were there already."""
    return Completed(name="Skipped", message="already in the lake with the same fingerprint")
