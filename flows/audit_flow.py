"""Flows over a spec, of which a Prefect server is told the name, also as a tag of their runs.

A server takes 512 KB of parameters for a run, and a spec that names 21,841 classes is longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, tags
from prefect.context import TagsContext
from typing_extensions import override

from ttame_core.data.plan import ShardPlan
from ttame_core.spec import AuditSpec

P = ParamSpec("P")
R = TypeVar("R")


class AuditFlow(Flow[P, R]):
    """A flow whose parameter `spec` is an audit, or the path of its YAML file."""

    @override
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # type: ignore[override]
        """Run the flow with the tag `ttame`, and the audit's name as another."""
        names = [spec.name for spec in (*args, *kwargs.values()) if isinstance(spec, AuditSpec)]
        with tags("ttame", *names):
            return super().__call__(*args, **kwargs)

    @override
    def serialize_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters for the Prefect server, with specs and plans replaced by names.

        The whole spec is in the record that the audit leaves in the workspace.
        """
        told = {name: _told(value) for name, value in parameters.items()}
        return super().serialize_parameters(told)


def _told(value: Any) -> Any:
    if isinstance(value, AuditSpec):
        return {"name": value.name}
    return value.dataset if isinstance(value, ShardPlan) else value


def flow(
    name: str, flow_run_name: Callable[[], str]
) -> Callable[[Callable[P, R]], AuditFlow[P, R]]:
    """Make the decorator of a flow over a spec.

    Args:
        name: name of the flow.
        flow_run_name: function that names a run.
    """

    def decorate(function: Callable[P, R]) -> AuditFlow[P, R]:
        return AuditFlow(_without_tags(function), name=name, flow_run_name=flow_run_name)

    return decorate


def _without_tags(function: Callable[P, R]) -> Callable[P, R]:
    """Let the tasks within a flow have no tags.

    Before each run of a task, Prefect would ask the server whether one of its tags limits how many
    run at a time.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with TagsContext(current_tags=set()):
            return function(*args, **kwargs)

    return run
