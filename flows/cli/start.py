"""The commands to start with: init, doctor, audit, status."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows import temporary_server
from flows.cli.options import HERE, Format, Output, Spec, Variables, Workspace
from flows.cli.running import (
    finish,
    load,
    nothing_to_do,
    print_answers,
    print_failed_gates,
    print_outcome,
    read,
    run,
)
from tasks.logs import console
from ttame_core.lake import Lake


def init(
    images: Annotated[
        str | None,
        typer.Argument(
            help="folder with a folder per class, or a list or manifest", metavar="IMAGES"
        ),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="classifier; may be repeated; default: a small one is trained"),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="file of the classifier's weights; default: as it is named")
    ] = None,
    class_names: Annotated[
        str | None, typer.Option(help="file of its classes' names; default: as the model says")
    ] = None,
    name: Annotated[str | None, typer.Option(help="audit's name; default: the folder's")] = None,
    output: Annotated[str | None, typer.Option(help="file to write; default: NAME.yaml")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="ask nothing")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace the file")] = False,
    model: Annotated[
        list[str] | None, typer.Option(hidden=True)
    ] = None,  # its name in older commands
) -> None:
    """Look at your images and write a commented spec for them.

    The command prints which classes and annotations there are, and what is wrong with the images.

    Examples:
        ttame init photos
        ttame init photos --backbone resnet50 --backbone torchvision/swin_t --yes
        ttame init photos --backbone resnet50 --weights mine.safetensors --class-names names.txt
        ttame init photos/list.csv --name birds --output specs/birds.yaml
    """
    from flows.init import init
    from ttame_core.data.draft import Wanted

    ask = not yes and sys.stdin.isatty() and console.file.isatty()
    init(
        images,
        Wanted([*(backbone or []), *(model or [])], weights, class_names),
        name,
        output,
        force,
        ask,
    )


def doctor(workspace: Workspace = HERE) -> None:
    """Check the installation, the device, the workspace and Prefect, and say what to do.

    The exit code is 1 where something would keep an audit from running.

    Examples:
        ttame doctor
        ttame doctor --workspace s3://my-bucket/audits
    """
    from flows.doctor import print_findings

    if not print_findings(workspace):
        raise typer.Exit(1)


def audit(
    spec: Spec,
    workspace: Workspace = HERE,
    var: Variables = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done")] = False,
) -> None:
    """Do everything the spec asks for that is not there yet, and report.

    Ctrl-C stops the command, and the same command goes on from there. Where nothing has changed
    since the last record, that record is shown again. The exit code is 1 where backbones failed,
    2 where a mistake in the spec or its files is the reason, 3 where a gate does not hold.

    Examples:
        ttame audit my-audit.yaml --dry-run
        ttame audit my-audit.yaml
        ttame audit zoo.yaml --var DATA=/data/birds --workspace s3://my-bucket/audits
    """
    if dry_run:
        planned = load(spec, var)
        from flows.dry_run import print_plan

        print_plan(planned, workspace)
        return
    from ttame_core.lake.records import records

    if not records(Lake(workspace), read(spec, var).name):
        temporary_server.begin()  # there is work for it; else that is found out first
    done = load(spec, var)
    failed = None if nothing_to_do(done, workspace) else run("audit_zoo", spec, workspace, var)
    failures = getattr(failed, "failures", {})
    whole = [b for b in done.backbones if b.name not in failures]
    print_outcome(done.model_copy(update={"backbones": whole}), workspace)
    print_answers(done, workspace)
    print_failed_gates(done, workspace)
    finish(failed)


def status(
    spec: Annotated[
        str | None,
        typer.Argument(help="only what this audit makes; default: all", metavar="SPEC"),
    ] = None,
    workspace: Workspace = HERE,
    var: Variables = None,
    format: Format = "table",
    output: Output = None,
) -> None:
    """Say what is done, running and failed, and the disk used.

    What is done is read from the workspace; what runs and failed also from the Prefect server that
    PREFECT_API_URL names.

    Examples:
        ttame status
        ttame status my-audit.yaml
        ttame status --format json
    """
    audit = load(spec, var) if spec else None
    from flows.status import print_status

    print_status(workspace, audit, format, output)
