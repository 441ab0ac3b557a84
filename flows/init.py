"""`ttame init`: look at somebody's pictures, ask a few questions, write a commented spec."""

from __future__ import annotations

import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.prompt import Confirm, Prompt
from rich.table import Table

from tasks.logs import console, is_quiet, say
from ttame_core import spec
from ttame_core.audits.readiness import problems
from ttame_core.audits.specification import open_spec
from ttame_core.data.draft import Wanted, draft, name_of
from ttame_core.data.plan import plan_shards
from ttame_core.data.survey import Survey, choose_annotations, find_source, survey
from ttame_core.errors import UserError, writing
from ttame_core.lake import Lake

SHOWN = 30  # classes that are printed


def init(
    place: str | None,
    wanted: Wanted,
    name: str | None,
    output: str | None,
    force: bool,
    ask: bool,
) -> None:
    """Look at the pictures at `place`, ask for what is not given, and write the spec.

    Args:
        place: folder, list or manifest of the pictures; None asks for it.
        wanted: the classifiers.
        name: name of the audit; None for the name of the folder.
        output: file to write; None for `<name>.yaml`.
        force: whether an existing file is replaced.
        ask: whether the user is asked; otherwise the proposed answers are taken.

    Raises:
        UserError: there are no pictures, no place is given, or the file exists already.
    """
    if not place:
        if not ask:
            raise UserError("say where the images are: ttame init FOLDER")
        place = Prompt.ask("Where are the images, a folder per class?", console=console)
    source = find_source(place)
    name = name or (_ask("A name for the audit", name_of(place)) if ask else name_of(place))
    output = output or f"{name}.yaml"
    if Path(output).exists() and not force:
        raise UserError(
            f"{output} is there already: give another --output, or --force to replace it"
        )
    survey = _look(_dataset(name, source))
    if not is_quiet():
        _print(survey)
    if survey.dataset.annotations and ask:
        place = survey.dataset.annotations.path
        if not Confirm.ask(
            f"Score maps by the annotations in {place}?", console=console, default=True
        ):
            without = survey.dataset.model_copy(update={"annotations": None})
            survey = Survey(**{**survey.__dict__, "dataset": without, "objects": {}})
    if not wanted.models and ask:
        wanted = _ask_for_classifiers()
    _write(output, draft(name, survey, wanted, output))
    wrong = _wrong(output)
    then = f"; next:\n  ttame audit {output} --dry-run\n  ttame audit {output}"
    say(f"wrote {output}" + ("" if is_quiet() or wrong else then))
    for sentence in wrong:
        say(f"before it can be audited: {sentence}", "warning")


def _ask_for_classifiers() -> Wanted:
    """Ask for classifiers and, where there is one, for its weights and the names of its classes."""
    answer = _ask("Classifiers, such as resnet50 (none: a small one is trained on the images)", "")
    models = answer.replace(",", " ").split()
    if len(models) != 1:
        return Wanted(models)
    weights = _ask("The file of its weights (none: those that its name says)", "") or None
    names = _ask("The file of its classes' names, one a line (none: as it says)", "") or None
    return Wanted(models, weights, names)


def _wrong(output: str) -> list[str]:
    """Return a sentence for each reason why the spec in a file cannot be audited as it stands.

    Published weights are not downloaded for that.
    """
    try:
        audit = open_spec(output)
        lake = Lake(f"memory://init/{audit.name}")
        sound = [one for one in audit.backbones if not one.runs_code]
        audit = audit.model_copy(update={"backbones": sound})
        plan = plan_shards(audit.dataset, lake)
        return list(problems(audit, lake, plan, fetch=False).values()) if sound else []
    except UserError as error:
        return str(error).splitlines()


def _ask(question: str, default: str) -> str:
    return Prompt.ask(question, console=console, default=default, show_default=bool(default))


def _dataset(name: str, source: spec.Source) -> spec.Dataset:
    try:
        dataset = spec.Dataset(name=name, source=source)
    except ValueError as error:
        raise UserError(
            f"{name} cannot be the name of an audit: use letters, digits and . _ + -"
        ) from error
    return dataset.model_copy(update={"annotations": choose_annotations(dataset)})


def _look(dataset: spec.Dataset) -> Survey:
    from tasks.progress import bar

    with bar("look at the images", "images") as report:
        return survey(dataset, lambda done, total: report(done, total, ""))


def _print(survey: Survey) -> None:
    splits = [split for split in spec.SPLITS if survey.in_split(split)]
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("class", no_wrap=True)
    for split in splits:
        table.add_column(split, justify="right")
    shown = list(survey.images.items())[:SHOWN]
    for label, counts in shown:
        table.add_row(label or "without labels", *(str(counts.get(split, 0)) for split in splits))
    if rest := len(survey.images) - len(shown):
        table.add_row(f"and {rest} more", *("" for _ in splits))
    table.add_section()
    table.add_row("all", *(str(survey.in_split(split)) for split in splits))
    out = Console(width=None if sys.stdout.isatty() else 100)
    out.print(table)
    shortest, middle, longest = survey.sides
    out.print(
        f"{survey.total} images in {len(survey.images)} classes, {survey.looked_at} looked at: "
        f"longer sides {shortest} to {longest} pixels, half under {middle}.",
        highlight=False,
    )
    annotations = survey.dataset.annotations
    out.print(
        f"Annotations ({annotations.kind}) of {survey.annotated} images in {annotations.path}."
        if annotations
        else "No annotations found near the images.",
        highlight=False,
    )
    for problem in survey.problems:
        out.print(f"- {problem}", style="yellow", markup=False, highlight=False)


def _write(output: str, text: str) -> None:
    with writing(output) as file:
        file.write_text(text, encoding="utf-8")
