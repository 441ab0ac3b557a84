"""The command that brings in maps that others made."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import HERE, Spec, Variables, Workspace
from flows.cli.running import finish, load, print_outcome, run


def import_maps(
    place: Annotated[str, typer.Argument(help="Parquet file, or folder of <key>.npy")],
    spec: Spec,
    name: Annotated[str, typer.Option(help="name for the explainer that made the maps")],
    backbone: Annotated[str | None, typer.Option(help="explained backbone; default: all")] = None,
    workspace: Workspace = HERE,
    var: Variables = None,
) -> None:
    """Bring in someone else's maps, by the keys of their images, and score them like any others.

    The spec's own explainers are not run again. To keep the maps in the audit's own report, name
    them in the spec: `- imported: {name: NAME, path: PLACE}`.

    Examples:
        ttame import-maps maps.parquet my-audit.yaml --name theirs
        ttame import-maps maps/ my-audit.yaml --name theirs --backbone resnet50
    """
    theirs = {"place": place, "name": name, "backbone": backbone}
    failed = run("import_maps", spec, workspace, var, **theirs)
    audit = load(spec, var)
    from flows.import_maps import only_imported

    added = only_imported(audit, place, name, backbone).explainers
    print_outcome(audit.model_copy(update={"explainers": [*audit.explainers, *added]}), workspace)
    finish(failed)
