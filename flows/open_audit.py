"""What every flow does first: read the spec, find what is to be made."""

from __future__ import annotations

from collections.abc import Callable

from prefect.runtime import flow_run

from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec, load_spec
from ttame_core.stages.provenance import Provenance


def open_spec(spec: AuditSpec | str) -> AuditSpec:
    """The spec itself, or the one in the YAML file at this path."""
    return load_spec(spec) if isinstance(spec, str) else spec


def open_audit(spec: AuditSpec | str, workspace: str) -> Provenance:
    """Spec and lake of a flow that reads shards. Raises UserError where there are none."""
    provenance = Provenance(open_spec(spec), Lake(workspace))
    provenance.check()
    return provenance


def place_of(workspace: str) -> str:
    """The workspace as a process finds it whose working folder is another."""
    lake = Lake(workspace)
    return lake.root if lake.local else workspace


def named(verb: str) -> Callable[[], str]:
    """Name of a flow run: the verb and what it is about."""

    def name() -> str:
        spec = flow_run.get_parameters()["spec"]
        if isinstance(spec, AuditSpec):
            return f"{verb} {spec.name}"
        return f"{verb} {spec['name'] if isinstance(spec, dict) else spec}"

    return name
