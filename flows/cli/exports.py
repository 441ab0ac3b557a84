"""The commands that hand an audit to what people already use."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import HERE, Spec, Variables, Workspace
from flows.cli.running import load
from tasks.logs import say
from ttame_core.lake import Lake


def export_mlflow(
    audit: Annotated[
        str,
        typer.Argument(
            help="NAME of an audit (its latest record), NAME@previous, NAME/TIME, or a spec",
            metavar="AUDIT",
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(help="MLflow's tracking URI; default: MLflow's own, MLFLOW_TRACKING_URI"),
    ] = None,
    workspace: Workspace = HERE,
    var: Variables = None,
) -> None:
    """Write an audit's record to MLflow: the leaderboard as metrics, the settings, the report.

    Examples:
        ttame export-mlflow my-audit
        ttame export-mlflow my-audit@previous --to sqlite:///mlflow.db
    """
    if audit.endswith((".yaml", ".yml")):
        audit = load(audit, var).name
    from ttame_core.exports.mlflow import export_record

    say(export_record(Lake(workspace), audit, to))


def export_dataset(
    spec: Spec,
    folder: Annotated[str, typer.Argument(help="new folder to write", metavar="FOLDER")],
    workspace: Workspace = HERE,
    var: Variables = None,
) -> None:
    """Write images, labels, maps and scores as a folder for Hugging Face `datasets`.

    Examples:
        ttame export-dataset my-audit.yaml explained/
    """
    audit = load(spec, var)
    from ttame_core.exports.huggingface import export_dataset
    from ttame_core.stages.provenance import Provenance

    provenance = Provenance(audit, Lake(workspace))
    provenance.check()
    export_dataset(provenance, folder, lambda name: say(f"wrote {name}"))
    say(f"in Python: datasets.load_dataset({folder!r})")
