"""The commands that bring trained heads in and hand them out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.cli.options import HERE, Spec, Variables, Workspace
from flows.cli.running import load
from tasks.logs import say
from ttame_core.errors import UserError, nearest
from ttame_core.lake import Lake

if TYPE_CHECKING:
    from ttame_core.spec import AuditSpec, Explainer


def import_head(
    file: Annotated[str, typer.Argument(help="published T-TAME checkpoint (PyTorch Lightning)")],
    backbone: Annotated[str, typer.Option(help="classifier, such as torchvision/vgg16")],
    output: Annotated[str, typer.Option(help="safetensors to write")] = "head.safetensors",
    tap: Annotated[
        list[str] | None, typer.Option(help="module the head reads; repeatable; default: published")
    ] = None,
) -> None:
    """Turn a published T-TAME checkpoint into a head of ttame; pickled code in it is not run.

    Examples:
        ttame import-head vgg16.ckpt --backbone torchvision/vgg16 --output heads/vgg16.safetensors
    """
    from pydantic import ValidationError

    from ttame_core.heads import published
    from ttame_core.spec import Backbone, problem_of

    taps: list[int | str] | None = list(tap) if tap else None
    try:
        classifier = Backbone(model=backbone, pretrained=True, taps=taps)
    except ValidationError as error:
        raise UserError(problem_of(error, Backbone.model_fields)) from error
    settings = published.import_head(file, classifier, output)
    say(f"wrote {output}; in a spec:")
    entry = {"model": backbone, "pretrained": True, "head": output, "taps": settings.taps}
    print(json.dumps({k: v for k, v in entry.items() if v}))


def explainer_to_export(audit: AuditSpec) -> Explainer | None:
    """Return the first rival with a T-TAME head; heads of controls are not for export."""
    from ttame_core.stages.roles import rivals

    competing = rivals(audit)
    own = (e for e in audit.explainers if e.method == "ttame" and e.name in competing)
    return next(own, None)


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
    audit = load(spec, var)
    from tasks.models import backbone_of, current_head
    from ttame_core.explainers import REGISTRY, NotApplicable
    from ttame_core.explainers.trained import Trained
    from ttame_core.heads.attention import AttentionHead
    from ttame_core.heads.export import export
    from ttame_core.stages.provenance import Provenance

    provenance = Provenance(audit, Lake(workspace))
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
