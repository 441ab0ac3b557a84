"""Single pictures without an audit; maps and heads from elsewhere, and to elsewhere."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, cast

import typer

from flows.cli.options import HERE, Spec, Variables, Workspace
from flows.cli.running import finish, load, print_outcome, run
from tasks.logs import say
from ttame_core.errors import UserError, nearest
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec, Explainer


def explain_image(
    images: Annotated[list[str], typer.Argument(help="pictures of any size", metavar="IMAGE...")],
    backbone: Annotated[
        str | None,
        typer.Option(help="its classifier, as in a spec; with --spec: by its name there"),
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
    """Explain single pictures: no data set, and no workspace where a head is given.

    Beside each picture with the predicted class and its probability stands its map.

    Examples:
        ttame explain-image photo.jpg --backbone resnet50 --explainer gradcam
        ttame explain-image photo.jpg --backbone torchvision/vgg16 --head vgg16.safetensors
        ttame explain-image *.jpg --spec my-audit.yaml --backbone net --output explained/
    """
    from flows.explain_image import open_named, open_of_spec, write_pictures

    if spec:
        alone = {"--tap": tap, "--checkpoint": checkpoint}
        if wrong := next((name for name, value in alone.items() if value), None):
            raise UserError(f"{wrong} goes with a classifier by name: the --spec has its own")
        opened = open_of_spec(load(spec, var), workspace, backbone, head, explainer or [])
    elif backbone:
        opened = open_named(backbone, checkpoint, head, tap, explainer or [])
    else:
        raise UserError("say whose decision is explained: --backbone MODEL, or --spec SPEC")
    failed = write_pictures(images, *opened, target, output)
    for sentence in failed:
        say(sentence, "error")
    if failed:
        raise typer.Exit(2)


def import_maps(
    place: Annotated[str, typer.Argument(help="Parquet file, or folder of <key>.npy")],
    spec: Spec,
    name: Annotated[str, typer.Option(help="of the explainer that made them")],
    backbone: Annotated[str | None, typer.Option(help="whose maps they are; default: all")] = None,
    workspace: Workspace = HERE,
    var: Variables = None,
) -> None:
    """Bring in someone else's maps, by the samples' keys, and score them like any other.

    The spec's own explainers are not run again. To keep the maps in the audit's own report, name
    them in the spec: `- imported: {name: NAME, path: PLACE}`.

    Examples:
        ttame import-maps maps.parquet my-audit.yaml --name theirs
        ttame import-maps maps/ my-audit.yaml --name theirs --backbone resnet50
    """
    from flows.import_maps import import_maps, only_imported

    flow = partial(import_maps, place=place, name=name, backbone=backbone)
    failed = run(flow, spec, workspace, var)
    audit = load(spec, var)
    added = only_imported(audit, place, name, backbone).explainers
    print_outcome(audit.model_copy(update={"explainers": [*audit.explainers, *added]}), workspace)
    finish(failed)


def import_head(
    file: Annotated[str, typer.Argument(help="published T-TAME checkpoint (PyTorch Lightning)")],
    backbone: Annotated[str, typer.Option(help="its classifier, such as torchvision/vgg16")],
    output: Annotated[str, typer.Option(help="safetensors to write")] = "head.safetensors",
    tap: Annotated[
        list[str] | None, typer.Option(help="module it reads; may be repeated; default: published")
    ] = None,
) -> None:
    """Make a published T-TAME checkpoint a head of ours. Nothing pickled in it is run.

    Examples:
        ttame import-head vgg16.ckpt --backbone torchvision/vgg16 --output heads/vgg16.safetensors
    """
    from pydantic import ValidationError

    from ttame_core.heads import published
    from ttame_core.spec import Backbone, words_of

    taps: list[int | str] | None = list(tap) if tap else None
    try:
        classifier = Backbone(model=backbone, pretrained=True, taps=taps)
    except ValidationError as error:
        raise UserError(words_of(error)) from error
    settings = published.import_head(file, classifier, output)
    say(f"wrote {output}; in a spec:")
    entry = {"model": backbone, "pretrained": True, "head": output, "taps": settings.taps}
    print(json.dumps({k: v for k, v in entry.items() if v}))


def explainer_to_export(audit: AuditSpec) -> Explainer | None:
    """Return the first explainer with a T-TAME head, without those trained on permuted labels."""
    from ttame_core.explainers import training_of

    return next(
        (
            explainer
            for explainer in audit.explainers
            if explainer.method == "ttame"
            and training_of(audit.training, explainer).labels != "permuted"
        ),
        None,
    )


def export_head(
    spec: Spec,
    backbone: Annotated[str, typer.Option(help="name of one of the spec's backbones")],
    output: Annotated[str, typer.Option(help="file to write: .onnx, .pt2 or .pt (TorchScript)")],
    workspace: Workspace = HERE,
    var: Variables = None,
) -> None:
    """Write a backbone and its trained head as one graph: images in, logits and maps out.

    Examples:
        ttame export-head my-audit.yaml --backbone resnet50 --output resnet50.onnx
    """
    from tasks.models import backbone_of, current_head
    from ttame_core.explainers import REGISTRY, NotApplicable
    from ttame_core.explainers.trained import Trained
    from ttame_core.heads.attention import AttentionHead
    from ttame_core.heads.export import export
    from ttame_core.stages.provenance import Provenance

    provenance = Provenance(load(spec, var), Lake(workspace))
    provenance.check()
    named = {b.name: b for b in provenance.audit.backbones}
    if backbone not in named:
        raise UserError(f"{spec} has no backbone {backbone}." + nearest(backbone, named))
    own = explainer_to_export(provenance.audit)
    if own is None:
        raise UserError(f"{spec} has no explainer ttame, whose head could be exported")
    model = backbone_of(provenance, named[backbone])
    try:
        explainer = cast(Trained, REGISTRY[own.method](model))
    except NotApplicable as reason:
        raise UserError(f"{backbone} has no head to export: {reason}") from reason
    head = cast(AttentionHead, current_head(provenance, named[backbone], own, explainer))
    export(model, head, output)
    say(f"wrote {output}")
