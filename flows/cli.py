"""The command line: flows, and questions to the lake."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.spec import AuditSpec, load_spec

if TYPE_CHECKING:
    from flows.each_backbone import BackbonesFailed
    from ttame_core.gates import GatesFailed

app = typer.Typer(
    help="Where in the image did the decision come from, and how far can that be trusted?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Spec = Annotated[str, typer.Argument(help="YAML file that describes the audit", metavar="SPEC")]
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
HERE = "./workspace"


@app.command()
def init(
    images: Annotated[
        str | None,
        typer.Argument(
            help="folder with a folder per class, or a list or manifest", metavar="IMAGES"
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="classifier; may be repeated; default: a small one is trained"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="of the audit; default: the folder's")] = None,
    output: Annotated[str | None, typer.Option(help="file to write; default: NAME.yaml")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="ask nothing")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace the file")] = False,
) -> None:
    """Look at your images and write a commented spec for them.

    It says which classes and annotations there are, and what is wrong with the images.
    """
    from flows.init import init

    ask = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    init(images, model or [], name, output, force, ask)


@app.command()
def audit(
    spec: Spec,
    workspace: Workspace = HERE,
    var: Variables = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done")] = False,
) -> None:
    """Do everything the spec asks for that is not there yet, and report."""
    if dry_run:
        from flows.dry_run import print_plan

        print_plan(_load(spec, var), workspace)
        return
    from flows.audit_zoo import audit_zoo

    failed = _run(audit_zoo, spec, workspace, var)
    done = _load(spec, var)
    _print_outcome(done, workspace)
    _print_failed_gates(done, workspace)
    _finish(failed)


@app.command()
def shard(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Write the data set as WebDataset shards, with its index and annotations."""
    from flows.shard_dataset import shard_dataset

    _finish(_run(shard_dataset, spec, workspace, var))


@app.command("fit-backbone")
def fit_backbone(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Train the classifiers that have a `fit:` section."""
    from flows.fit_backbones import fit_backbones

    _finish(_run(fit_backbones, spec, workspace, var))


@app.command()
def train(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Train the attention head of each backbone."""
    from flows.train_heads import train_heads

    _finish(_run(train_heads, spec, workspace, var))


@app.command()
def sweep(
    spec: Spec,
    trials: Annotated[int, typer.Option(min=1, help="heads trained for each backbone")] = 20,
    workspace: Workspace = HERE,
    var: Variables = None,
) -> None:
    """Search for better training settings than the spec's, and say how far those are from them."""
    from functools import partial

    from flows.sweep_training import sweep_training
    from ttame_core.explainers import REGISTRY
    from ttame_core.report.tables import sweep_table
    from ttame_core.sweeping import read_trials, shortfall

    failed = _run(partial(sweep_training, trials=trials), spec, workspace, var)
    audit = _load(spec, var)
    out = Console(width=None if sys.stdout.isatty() else 160)
    for backbone in audit.backbones:
        for explainer in audit.explainers:
            if not REGISTRY[explainer.method].needs_head:
                continue
            tried = read_trials(Lake(workspace), audit.dataset.name, backbone.name, explainer.name)
            if tried:
                title = f"{explainer.name} on {backbone.name}"
                out.print(sweep_table(title, tried, shortfall(tried)))
    _finish(failed)


@app.command()
def explain(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Write the explanation maps."""
    from flows.explain_dataset import explain_dataset

    _finish(_run(explain_dataset, spec, workspace, var))


@app.command()
def evaluate(spec: Spec, workspace: Workspace = HERE, var: Variables = None) -> None:
    """Score the explanation maps."""
    from flows.evaluate_maps import evaluate_maps

    _finish(_run(evaluate_maps, spec, workspace, var))


@app.command()
def doctor(workspace: Workspace = HERE) -> None:
    """Check the installation, the device, the workspace and Prefect, and say what to do.

    Exit code 1 where something would keep an audit from running.
    """
    from flows.doctor import print_findings

    if not print_findings(workspace):
        raise typer.Exit(1)


@app.command()
def status(
    spec: Annotated[
        str | None,
        typer.Argument(help="only what this audit makes; default: all", metavar="[SPEC]"),
    ] = None,
    workspace: Workspace = HERE,
    var: Variables = None,
    format: Annotated[str, typer.Option(help="table, markdown, csv, json or parquet")] = "table",
    output: Annotated[str | None, typer.Option(help="file to write; default: the terminal")] = None,
) -> None:
    """Say what is done, running and failed, and the disk used.

    It looks at the workspace, and asks the Prefect server where PREFECT_API_URL names one.
    """
    from flows.status import print_status

    print_status(workspace, _load(spec, var) if spec else None, format, output)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="one SELECT; the views are listed in the README")],
    workspace: Workspace = HERE,
    format: Annotated[str, typer.Option(help="table, markdown, csv, json or parquet")] = "table",
    output: Annotated[str | None, typer.Option(help="file to write; default: the terminal")] = None,
) -> None:
    """Ask the lake anything in SQL. Read-only."""
    from ttame_core.lake.catalogue import run_query, write_result

    write_result(run_query(Lake(workspace), sql), format, output)


@app.command()
def audits(
    name: Annotated[str | None, typer.Argument(help="default: all", metavar="NAME")] = None,
    workspace: Workspace = HERE,
    format: Annotated[str, typer.Option(help="table, markdown, csv, json or parquet")] = "table",
    output: Annotated[str | None, typer.Option(help="file to write; default: the terminal")] = None,
) -> None:
    """List the audits of a workspace: when, of what, and whether their gates held."""
    from ttame_core.lake.catalogue import write_result
    from ttame_core.report import history

    write_result(history.audits(Lake(workspace), name), format, output)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="an explainer, a backbone, or an audit", metavar="A")],
    b: Annotated[
        str,
        typer.Argument(
            help="another one; audits are NAME@latest, NAME@previous or NAME/TIME", metavar="B"
        ),
    ],
    workspace: Workspace = HERE,
    dataset: Annotated[str | None, typer.Option(help="default: all")] = None,
    format: Annotated[str, typer.Option(help="table, markdown, csv, json or parquet")] = "table",
    output: Annotated[str | None, typer.Option(help="file to write; default: the terminal")] = None,
) -> None:
    """Say which of two is better at what: paired by image, with intervals and p-values."""
    from ttame_core import comparison
    from ttame_core.lake.catalogue import write_result
    from ttame_core.report.tables import comparison_table

    found = comparison.compare(Lake(workspace), a, b, dataset)
    if format == "table" and output is None:
        Console(width=None if sys.stdout.isatty() else 160).print(comparison_table(found))
    else:
        write_result(found.rows, format, output)


@app.command()
def show(
    keys: Annotated[list[str], typer.Argument(help="keys of samples (see the view `samples`)")],
    workspace: Workspace = HERE,
    dataset: Annotated[str | None, typer.Option(help="default: the one that has the keys")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="default: all with maps")] = None,
    explainer: Annotated[list[str] | None, typer.Option(help="default: all with maps")] = None,
    output: Annotated[str, typer.Option(help="PNG to write")] = "ttame.png",
) -> None:
    """Draw image, boxes, map and overlay for each backbone and explainer."""
    from ttame_core.report.pictures import find_samples, show_samples

    show_samples(find_samples(Lake(workspace), keys, dataset, backbone, explainer)).save(output)
    err.print(f"wrote {output}")


@app.command("explain-image")
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
    """
    from flows.explain_image import open_named, open_of_spec, write_pictures

    if spec:
        alone = {"--tap": tap, "--checkpoint": checkpoint}
        if wrong := next((name for name, value in alone.items() if value), None):
            raise UserError(f"{wrong} goes with a classifier by name: the --spec has its own")
        opened = open_of_spec(_load(spec, var), workspace, backbone, head, explainer or [])
    elif backbone:
        opened = open_named(backbone, checkpoint, head, tap, explainer or [])
    else:
        raise UserError("say whose decision is explained: --backbone MODEL, or --spec SPEC")
    failed = write_pictures(images, *opened, target, output)
    for sentence in failed:
        err.print(sentence, style="red", markup=False)
    if failed:
        raise typer.Exit(2)


@app.command()
def backbones(
    pattern: Annotated[str, typer.Argument(help="name or wildcard, such as 'swin*'")] = "*",
    check: Annotated[
        bool, typer.Option("--check", help="train and explain one step with random weights")
    ] = False,
) -> None:
    """List the architectures that can be explained, with the taps that would be used."""
    from ttame_core import coverage
    from ttame_core.report.tables import coverage_line

    failed = 0
    for model in coverage.find_architectures(pattern):
        try:
            print(coverage_line(coverage.describe(model)), flush=True)
            if check:
                coverage.check(coverage.random_backbone(model))
        except UserError as error:
            failed += 1
            err.print(str(error), style="red", markup=False)
    if failed:
        raise typer.Exit(2)


@app.command()
def explainers() -> None:
    """List the explainers: what a map costs in passes, what they need, and their settings.

    Passes are those through the classifier beyond the one that all share; C is the number of
    channels of the tap.
    """
    from ttame_core.explainers import REGISTRY
    from ttame_core.report.tables import explainers_table

    Console(width=None if sys.stdout.isatty() else 200).print(explainers_table(REGISTRY))


@app.command("import-maps")
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
    """
    from functools import partial

    from flows.import_maps import import_maps, only_imported

    flow = partial(import_maps, place=place, name=name, backbone=backbone)
    failed = _run(flow, spec, workspace, var)
    audit = _load(spec, var)
    added = only_imported(audit, place, name, backbone).explainers
    _print_outcome(audit.model_copy(update={"explainers": [*audit.explainers, *added]}), workspace)
    _finish(failed)


@app.command("import-head")
def import_head(
    file: Annotated[str, typer.Argument(help="published T-TAME checkpoint (PyTorch Lightning)")],
    backbone: Annotated[str, typer.Option(help="its classifier, such as torchvision/vgg16")],
    output: Annotated[str, typer.Option(help="safetensors to write")] = "head.safetensors",
    tap: Annotated[
        list[str] | None, typer.Option(help="module it reads; may be repeated; default: published")
    ] = None,
) -> None:
    """Make a published T-TAME checkpoint a head of ours. Nothing pickled in it is run."""
    import json

    from ttame_core import published
    from ttame_core.spec import Backbone

    taps: list[int | str] | None = list(tap) if tap else None
    settings = published.import_head(
        file, Backbone(model=backbone, pretrained=True, taps=taps), output
    )
    err.print(f"wrote {output}; in a spec:")
    entry = {"model": backbone, "pretrained": True, "head": output, "taps": settings.taps}
    print(json.dumps({k: v for k, v in entry.items() if v}))


@app.command("export-head")
def export_head(
    spec: Spec,
    backbone: Annotated[str, typer.Option(help="name of one of the spec's backbones")],
    output: Annotated[str, typer.Option(help="file to write: .onnx, .pt2 or .pt (TorchScript)")],
    workspace: Workspace = HERE,
    var: Variables = None,
) -> None:
    """Write a backbone and its trained head as one graph: images in, logits and maps out."""
    from tasks.models import backbone_of
    from ttame_core.errors import nearest
    from ttame_core.explainers import REGISTRY
    from ttame_core.exporting import export
    from ttame_core.lake import head_folder
    from ttame_core.provenance import Provenance
    from ttame_core.training import load_head

    provenance = Provenance(_load(spec, var), Lake(workspace))
    provenance.check()
    named = {b.name: b for b in provenance.audit.backbones}
    if backbone not in named:
        raise UserError(f"{spec} has no backbone {backbone}." + nearest(backbone, named))
    model = backbone_of(provenance, named[backbone])
    folder = head_folder(provenance.dataset, backbone, "ttame")
    export(model, load_head(provenance.lake, folder, REGISTRY["ttame"](model)), output)
    err.print(f"wrote {output}")


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        err.print(str(error), style="red", markup=False)
        sys.exit(2)


def _load(path: str, variables: list[str] | None) -> AuditSpec:
    pairs = dict(v.partition("=")[::2] for v in variables or [])
    wrong = next((v for v in variables or [] if "=" not in v), None)
    if wrong:
        raise UserError(f"--var {wrong} has no value: write --var {wrong}=VALUE")
    return load_spec(path, pairs)


def _run(
    flow: Any, path: str, workspace: str, variables: list[str] | None
) -> BackbonesFailed | GatesFailed | None:
    """Run a flow over a spec; what backbones and gates failed is returned."""
    from flows import messages
    from flows.each_backbone import BackbonesFailed
    from flows.opening import place_of
    from ttame_core.gates import GatesFailed

    messages.install()
    place = place_of(workspace)  # an address that is refused stands in no run's parameters
    try:
        flow(_load(path, variables), place)
    except (BackbonesFailed, GatesFailed) as failed:
        return failed
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        raise UserError(
            f"{error}: start that Prefect server, or unset PREFECT_API_URL to do without one"
        ) from error
    return None


def _finish(failed: BackbonesFailed | GatesFailed | None) -> None:
    """Exit with 1 where backbones failed, with 2 where all of them by the user's mistake, and with
    3 where none did but a gate."""
    from ttame_core.gates import GatesFailed

    if failed is None:
        return
    if isinstance(failed, GatesFailed):
        raise typer.Exit(3)
    for name, error in failed.failures.items():
        err.print(f"backbone {name} failed: {error}", style="red", markup=False)
    raise typer.Exit(2 if failed.by_user else 1)


def _print_outcome(audit: AuditSpec, workspace: str) -> None:
    """The leaderboard, what to think of it, and where the report lies."""
    from ttame_core.report.record import audit_board, audit_refusals
    from ttame_core.report.tables import backbones_table, leaderboard_tables, refusals, warnings

    lake = Lake(workspace)
    board = audit_board(lake, audit)
    out = Console(width=None if sys.stdout.isatty() else 160)
    out.print(backbones_table(board))
    for table in leaderboard_tables(board, out.width):
        out.print(table)
    for note in refusals(audit_refusals(lake, audit)):
        err.print(note, markup=False)
    for note in warnings(board, audit.evaluation.minimum_discrimination):
        err.print(note, style="yellow", markup=False)
    if records := lake.glob(f"audits/{audit.name}/*/report.html"):
        err.print(f"report: {workspace}/{records[-1]}")


def _print_failed_gates(audit: AuditSpec, workspace: str) -> None:
    """A sentence for each, of the audit's last record."""
    from ttame_core.report.record import failed_gates

    lake = Lake(workspace)
    for path in lake.glob(f"audits/{audit.name}/*/leaderboard.parquet")[-1:]:
        for row in failed_gates(lake, path.rsplit("/", 1)[0]):
            err.print(f"gate failed: {row['words']}", style="red", markup=False)
