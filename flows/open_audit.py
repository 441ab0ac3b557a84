"""The first step of every flow: read the spec, and find what is to be made."""

from __future__ import annotations

from collections.abc import Callable

from prefect.runtime import flow_run

from ttame_core.audits import specification
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec
from ttame_core.stages.provenance import Provenance


def open_spec(spec: AuditSpec | str) -> AuditSpec:
    """Return the spec of a flow, checked and with all defaults filled in.

    Args:
        spec: the audit, or the path of its YAML file.

    Raises:
        UserError: the spec is wrong.
    """
    if isinstance(spec, str):
        return specification.open_spec(spec)
    return specification.complete(spec)


def open_audit(spec: AuditSpec | str, workspace: str) -> Provenance:
    """Open spec and lake of a flow that reads shards.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.

    Raises:
        UserError: the data set is not in the workspace.
    """
    provenance = Provenance(open_spec(spec), Lake(workspace))
    provenance.check()
    return provenance


def named(verb: str) -> Callable[[], str]:
    """Make a function that names flow runs by a verb and the audit's name, as in `train birds`."""

    def name() -> str:
        spec = flow_run.get_parameters()["spec"]
        if isinstance(spec, AuditSpec):
            return f"{verb} {spec.name}"
        return f"{verb} {spec['name'] if isinstance(spec, dict) else spec}"

    return name
