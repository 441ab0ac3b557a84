"""The command that explains single pictures, without an audit."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import HERE, Variables, Workspace
from flows.cli.running import load
from tasks.logs import say
from ttame_core.errors import UserError


def explain_image(
    images: Annotated[list[str], typer.Argument(help="pictures of any size", metavar="IMAGE...")],
    backbone: Annotated[
        str | None,
        typer.Option(help="classifier, as in a spec; with --spec: the name of one in the spec"),
    ] = None,
    explainer: Annotated[
        list[str] | None, typer.Option(help="may be repeated; default: ttame")
    ] = None,
    head: Annotated[str | None, typer.Option(help="safetensors of a trained head")] = None,
    tap: Annotated[
        list[str] | None, typer.Option(help="module the head reads; may be repeated")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="weights of the classifier; default: pretrained ones")
    ] = None,
    spec: Annotated[
        str | None, typer.Option(help="take classifier and head from an audit", metavar="SPEC")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="class to explain, name or number; default: predicted")
    ] = None,
    output: Annotated[
        str, typer.Option(help="PNG to write, or a folder for one PNG per picture")
    ] = "explained.png",
    workspace: Workspace = HERE,
    var: Variables = None,
) -> None:
    """Explain single pictures, which need no data set and, with a given head, no workspace.

    The output shows each picture, the predicted class with its probability, and the map.

    Examples:
        ttame explain-image photo.jpg --backbone resnet50 --explainer gradcam
        ttame explain-image photo.jpg --backbone torchvision/vgg16 --head vgg16.safetensors
        ttame explain-image *.jpg --spec my-audit.yaml --backbone net --output explained/
    """
    alone = {"--tap": tap, "--checkpoint": checkpoint}
    if spec and (wrong := next((name for name, value in alone.items() if value), None)):
        raise UserError(f"{wrong} cannot be given with --spec: the spec says it already")
    if not spec and not backbone:
        raise UserError("say which classifier to explain: --backbone MODEL, or --spec SPEC")
    audit = load(spec, var) if spec else None
    from flows.explain_image import open_named, open_of_spec, write_pictures

    if audit:
        opened = open_of_spec(audit, workspace, backbone, head, explainer or [])
    else:
        opened = open_named(str(backbone), checkpoint, head, tap, explainer or [], images)
    failed = write_pictures(images, *opened, target, output)
    for sentence in failed:
        say(sentence, "error")
    if failed:
        raise typer.Exit(2)
