"""Other pictures, changed as a whole, or with what maps mark pasted onto them."""

from __future__ import annotations

from flows.audit_flow import flow
from flows.each_backbone import run_units
from flows.engine import Unit, opened
from flows.open_audit import named, open_audit
from tasks.paste import paste
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec


@flow(name="paste_marked", flow_run_name=named("paste"))
def paste_marked(spec: AuditSpec | str, workspace: str) -> None:
    """Change whole pictures; where maps of a class are alike, paste what they mark onto others.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.

    Raises:
        BackbonesFailed: some backbones failed; those of the others are written.
    """
    audit = open_audit(spec, workspace).audit
    common = {"audit": audit, "workspace": Lake(workspace).place}
    with opened(audit.compute) as engine:
        units = [Unit(b.name, paste, {**common, "backbone": b}) for b in audit.backbones]
        run_units("paste", engine, units)
