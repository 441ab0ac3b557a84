"""The commands that hand an audit to what people already use."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.spec import load_spec

exports = typer.Typer()
err = Console(stderr=True, highlight=False, soft_wrap=True)

Workspace = Annotated[
    str,
    typer.Option(
        "--workspace", envvar="TTAME_WORKSPACE", help="folder or URL of the lake", metavar="PLACE"
    ),
]
Variables = Annotated[
    list[str] | None,
    typer.Option("--var", help="fill ${NAME} in the spec; may be repeated", metavar="NAME=VALUE"),
]


def _variables(given: list[str] | None) -> dict[str, str]:
    if wrong := next((v for v in given or [] if "=" not in v), None):
        raise UserError(f"--var {wrong} has no value: write --var {wrong}=VALUE")
    return dict(v.partition("=")[::2] for v in given or [])


@exports.command("export-mlflow")
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
        typer.Option(help="MLflow's tracking URI; default: as MLflow itself, MLFLOW_TRACKING_URI"),
    ] = None,
    workspace: Workspace = "./workspace",
    var: Variables = None,
) -> None:
    """Write an audit's record to MLflow: leaderboard as metrics, settings, report."""
    from ttame_core.tracking import export_record

    if audit.endswith((".yaml", ".yml")):
        audit = load_spec(audit, _variables(var)).name
    err.print(export_record(Lake(workspace), audit, to), markup=False)


@exports.command("export-dataset")
def export_dataset(
    spec: Annotated[str, typer.Argument(help="YAML file that describes the audit", metavar="SPEC")],
    folder: Annotated[str, typer.Argument(help="to write, and not there yet", metavar="FOLDER")],
    workspace: Workspace = "./workspace",
    var: Variables = None,
) -> None:
    """Write images, labels, maps and scores as a folder for Hugging Face `datasets`."""
    from ttame_core.map_dataset import export_dataset
    from ttame_core.provenance import Provenance

    provenance = Provenance(load_spec(spec, _variables(var)), Lake(workspace))
    provenance.check()
    export_dataset(provenance, folder, lambda name: err.print(f"wrote {name}", markup=False))
    err.print(f"in Python: datasets.load_dataset({folder!r})", markup=False)
