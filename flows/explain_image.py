"""`ttame explain-image`: explain single pictures, with a named classifier or one of a spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from tasks.logs import say
from tasks.models import check_fitted, current_head, load
from ttame_core import spec
from ttame_core.api import load_backbone
from ttame_core.audits.specification import complete_explainer
from ttame_core.backbones import Backbone
from ttame_core.backbones.classes import ClassList
from ttame_core.backbones.devices import place
from ttame_core.errors import UserError, nearest, writing
from ttame_core.explainers import REGISTRY, Explainer, NotApplicable, Trained, training_of
from ttame_core.heads.attention import Head, SharedHead
from ttame_core.heads.files import read_head
from ttame_core.heads.published import published_taps
from ttame_core.lake import Lake, dataset_file
from ttame_core.report.single import (
    Explained,
    batch_of,
    draw,
    explain_picture,
    read_picture,
)
from ttame_core.stages.matched import match_of
from ttame_core.stages.provenance import Provenance, given_head
from ttame_core.training.start import START_IMAGES, start_from_gradients

DEFAULT = "ttame"
Opened = tuple[dict[str, Explainer], ClassList]  # explainers by name, names of classes


def open_named(
    model: str,
    checkpoint: str | None,
    head: str | None,
    taps: Sequence[str] | None,
    explainers: Sequence[str],
    images: Sequence[str],
) -> Opened:
    """Make the explainers of a classifier that is given by name.

    Args:
        model: the classifier, as a spec names it.
        checkpoint: file of its weights; None for pretrained ones.
        head: file of a trained head, for the explainers that need one. Without it, the explainer
            ttame gets an untrained head, made from the gradients of the classifier on the pictures.
        taps: modules that the head reads; None for the head's own.
        explainers: names of explainers; none for the default.
        images: files of the pictures that are to be explained.

    Raises:
        UserError: a name is unknown, or an explainer needs a trained head and none is given.
    """
    reads: list[int | str] | None = list(taps) if taps else None
    if head and not reads and not _is_ours(head):
        reads = published_taps(model)
    weights = {"checkpoint": checkpoint} if checkpoint else {"pretrained": True}
    try:
        settings = spec.Backbone.model_validate({"model": model, "taps": reads, **weights})
        if settings.library in ("huggingface", "factory"):  # their models come with weights
            settings = settings.model_copy(update={"pretrained": False})
        if settings.library == "factory":
            spec.trust(model)  # which the user has named, not a spec
        named = [spec.Explainer.model_validate(name) for name in explainers or [DEFAULT]]
        chosen = [complete_explainer(section) for section in named]
    except ValidationError as error:
        raise UserError(spec.problem_of(error, ())) from error
    for explainer in chosen:
        if REGISTRY[explainer.method].needs_head and not head and not _has_start(explainer):
            raise UserError(
                f"{explainer.name} needs a trained head: give --head FILE, a --spec whose "
                "workspace has one, or an explainer that needs none, such as --explainer gradcam"
            )
    backbone = load_backbone(settings)
    started = partial(_started_head, images)
    made = {e.name: _explainer(backbone, e, head, started) for e in chosen}
    return made, backbone.classes.for_readers(backbone.num_classes)


def open_of_spec(
    audit: spec.AuditSpec,
    workspace: str,
    name: str | None,
    head: str | None,
    explainers: Sequence[str],
) -> Opened:
    """Make the explainers of a spec's backbone, with the heads that the workspace holds.

    Args:
        audit: the spec.
        workspace: folder or URL of the lake.
        name: name of the backbone; None where the spec has only one.
        head: file of a trained head; None for that of the workspace.
        explainers: names of explainers; none for the default.

    Raises:
        UserError: a name is unknown, or a head is missing.
    """
    provenance = Provenance(audit, Lake(workspace))
    named = {b.name: b for b in audit.backbones}
    if name is None and len(named) > 1:
        raise UserError(
            f"the spec has several backbones: choose one by --backbone, {' or '.join(named)}"
        )
    name = name or next(iter(named))
    if name not in named:
        raise UserError(f"the spec has no backbone {name}." + nearest(name, named))
    settings = named[name]
    check_fitted(provenance, settings)
    backbone = place(load(provenance, settings), audit.compute)
    own = {e.name: e for e in audit.explainers}
    made: dict[str, Explainer] = {}
    for wanted in explainers or [DEFAULT if DEFAULT in own else next(iter(own))]:
        try:
            chosen = own.get(wanted) or complete_explainer(spec.Explainer.model_validate(wanted))
        except ValidationError as error:
            raise UserError(spec.problem_of(error, ())) from error
        file = head or given_head(settings, chosen)
        trained = partial(current_head, provenance, settings, chosen)
        made[wanted] = _explainer(backbone, chosen, file, trained)
    if provenance.lake.exists(dataset_file(provenance.dataset, "shards.parquet")):
        return made, match_of(provenance, settings, backbone).theirs
    return made, backbone.classes.for_readers(backbone.num_classes)


def write_pictures(
    images: Sequence[str],
    explainers: dict[str, Explainer],
    classes: ClassList,
    target: str | None,
    output: str,
) -> list[str]:
    """Explain pictures into one PNG or into a folder of PNGs, and print a line for each.

    Args:
        images: files of the pictures.
        explainers: explainers of one classifier, by name.
        classes: the classifier's names of its classes.
        target: name or number of the class to explain; None for the predicted one.
        output: path of the PNG, or of the folder.

    Returns:
        A sentence for each picture that could not be explained.

    Raises:
        UserError: the target is no class of the classifier, or two pictures would have one name.
    """
    number = None if target is None else classes.number_of(target)
    in_one_file = output.lower().endswith(".png")
    stems = [Path(path).stem for path in images]
    if not in_one_file and (twice := {stem for stem in stems if stems.count(stem) > 1}):
        raise UserError(
            f"two of the pictures are called {min(twice)}: explain them one by one, or into one PNG"
        )
    explained, failed = [], []
    count = next(iter(explainers.values())).backbone.preprocessing.shape[0]
    for path in images:
        try:
            photo = read_picture(path, count)
            one = explain_picture(Path(path).name, photo, explainers, classes.names, number)
        except UserError as error:
            failed.append(str(error))
            continue
        print(one.sentence)
        if in_one_file:
            explained.append(one)
        else:
            _save([one], Path(output) / f"{Path(path).stem}.png")
    if explained:
        _save(explained, Path(output))
    return failed


def _save(explained: Sequence[Explained], path: Path) -> None:
    with writing(path) as file:
        draw(explained).save(file)
    say(f"wrote {path}")


def _explainer(
    backbone: Backbone,
    settings: spec.Explainer,
    head: str | None,
    trained: Callable[[Trained], Head] | None = None,
) -> Explainer:
    """Make an explainer; its head comes from the file `head`, else from what `trained` returns."""
    method = REGISTRY[settings.method]
    if method.needs_annotations or settings.method == "imported":
        raise UserError(
            f"the explainer {settings.name} explains only the images of a data set: give another "
            "--explainer"
        )
    try:
        explainer = method(backbone, settings.settings)
    except NotApplicable as reason:
        raise UserError(f"{settings.name} does not apply to {backbone.name}: {reason}") from reason
    if not isinstance(explainer, Trained):
        return explainer
    if head:
        return explainer.use(read_head(head, explainer, "give the head and --tap that go together"))
    assert trained is not None
    return explainer.use(trained(explainer))


def _has_start(explainer: spec.Explainer) -> bool:
    """Say whether the explainer's head explains something before it is trained."""
    return training_of(spec.Training(), explainer).fusion == "shared"


def _started_head(images: Sequence[str], explainer: Trained) -> Head:
    """Make a head that is not trained, from the gradients of the pictures in these files.

    Raises:
        UserError: none of the pictures can be read.
    """
    backbone = explainer.backbone
    photos, failed = {}, []
    for path in images[:START_IMAGES]:
        try:
            photos[path] = read_picture(path, backbone.preprocessing.shape[0])
        except UserError as error:
            failed.append(error)
    if not photos:
        raise failed[0]
    batch = batch_of([*photos], [*photos.values()], backbone.preprocessing)
    batches = batch.float_images(backbone.device).split(8)
    head = explainer.new_head(fusion="shared")
    assert isinstance(head, SharedHead)
    start_from_gradients(head, backbone, lambda: batches)
    say(f"{explainer.name} is not trained: its maps follow from gradients of these pictures alone")
    return head


def _is_ours(head: str) -> bool:
    """Say whether ttame trained a head: then its file has a text `ttame`, which imported ones lack.

    A damaged file counts as trained by ttame, and is refused when it is read.
    """
    if not Path(head).is_file():
        raise UserError(f"cannot read the head {head}: there is no such file")
    try:
        with safe_open(head, "pt") as file:
            return "ttame" in (file.metadata() or {})
    except SafetensorError:
        return True  # reading the head later says what is wrong with the file
