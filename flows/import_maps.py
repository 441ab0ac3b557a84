"""Someone else's maps → maps and scores of the lake, beside those of an audit."""

from __future__ import annotations

from pydantic import ValidationError

from flows.audit_flow import flow
from flows.evaluate_maps import evaluate_maps
from flows.explain_dataset import explain_dataset
from flows.open_audit import named, open_spec
from ttame_core.audits.specification import complete_explainer
from ttame_core.errors import UserError, nearest
from ttame_core.spec import AuditSpec, Explainer


@flow(name="import_maps", flow_run_name=named("import maps for"))
def import_maps(
    spec: AuditSpec | str, workspace: str, place: str, name: str, backbone: str | None = None
) -> None:
    """Bring in someone else's maps as an explainer, and score them like the audit's own.

    The explainers of the audit are left alone.

    Args:
        spec: the audit, or the path of its YAML file.
        workspace: folder or URL of the lake.
        place: a Parquet file or a folder of .npy files (see the explainer `imported`).
        name: name for the explainer that made the maps.
        backbone: name of the backbone that the maps explain; None for all of the spec.
    """
    audit = only_imported(open_spec(spec), place, name, backbone)
    explain_dataset(audit, workspace)
    evaluate_maps(audit, workspace)


def only_imported(audit: AuditSpec, place: str, name: str, backbone: str | None) -> AuditSpec:
    """Return the audit with the maps at `place` as its only explainer.

    Raises:
        UserError: the explainer's name is taken or cannot name a folder, or no backbone has the
            given name.
    """
    if name in (e.name for e in audit.explainers):
        raise UserError(
            f"audit {audit.name} has an explainer called {name} already: give another --name"
        )
    backbones = [b for b in audit.backbones if backbone in (None, b.name)]
    if not backbones:
        known = [b.name for b in audit.backbones]
        raise UserError(
            f"audit {audit.name} has no backbone {backbone}." + nearest(backbone or "", known)
        )
    try:
        given = Explainer(method="imported", name=name, settings={"path": place})
    except ValidationError as error:
        raise UserError(
            f"--name {name} cannot name a folder in the lake: use letters, digits and . _ + -"
        ) from error
    imported = complete_explainer(given)
    return audit.model_copy(update={"explainers": [imported], "backbones": backbones})
