"""Flows over a spec, of which a Prefect server is told the name.

A server takes 512 KB of parameters for a run, and a spec that names 21,841 classes is longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from typing_extensions import override

from ttame_core.data.plan import ShardPlan
from ttame_core.spec import AuditSpec

P = ParamSpec("P")
R = TypeVar("R")


class AuditFlow(Flow[P, R]):
    """A flow whose parameter `spec` is an audit, or the path of its YAML file."""

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
        return AuditFlow(function, name=name, flow_run_name=flow_run_name)

    return decorate
