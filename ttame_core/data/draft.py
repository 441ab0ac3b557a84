"""Writing of a commented spec for somebody's own pictures, from a survey of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from pydantic import ValidationError

from ttame_core import spec
from ttame_core.data.survey import UNLABELLED, Survey
from ttame_core.errors import UserError, nearest

MAX_SIZE = 512  # pixels of the longer side, which is enough for classifiers
BATCH = 32  # the default batch size of a spec
IMAGENET = 1000  # classes of torchvision's pretrained classifiers

# A classifier that trains in minutes on a CPU, for users who have none yet.
SMALL = {
    "name": "small-resnet",
    "model": "resnet18",
    "args": {"channels": [32, 64, 128, 256]},
    "preprocessing": {"input_size": [128, 128], "crop_pct": 1.0, "crop_mode": "squash"},
}


def name_of(place: str) -> str:
    """Return a name for an audit of pictures: their folder's, in characters that names may have."""
    path = Path(place).expanduser().resolve()
    if re.fullmatch(r"images?|data|train(ing)?", path.name, re.I) and path.parent.name:
        path = path.parent
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", path.stem if path.is_file() else path.name)
    return plain.strip("-._+")[:120] or "my-audit"


@dataclass(frozen=True)
class Wanted:
    """The classifiers that a spec is drafted for.

    Attributes:
        models: as a spec names them; none for a small one that the audit trains.
        weights: file of weights of the one model; None for those that its name says.
        class_names: file of the names of its classes, or the name of a list; None as it says.
    """

    models: Sequence[str] = ()
    weights: str | None = None
    class_names: str | None = None

    @property
    def own(self) -> dict[str, str]:
        """The keys of a backbone that these options give."""
        keys = {"checkpoint": self.weights, "class_names": self.class_names}
        return {key: value for key, value in keys.items() if value is not None}


def draft(name: str, survey: Survey, wanted: Wanted, file: str) -> str:
    """Write the YAML text of a spec.

    Args:
        name: name of the audit.
        survey: survey of the pictures.
        wanted: the classifiers.
        file: path that the spec will have, for the commands in its comments.

    Raises:
        UserError: the name or a model cannot be in a spec, or no model is named and none can be
            trained on the images.
    """
    classes = len(_classes(survey))
    if classes < 2 and not wanted.models:
        have = "one class alone" if classes else "no labels"
        raise UserError(
            f"the images have {have}, so that no classifier can be trained on them: name one "
            "with --backbone"
        )
    if wanted.own and len(wanted.models) != 1:
        raise UserError(
            "--weights and --class-names are of one classifier: say which architecture it has by "
            "one --backbone, such as --backbone resnet50"
        )
    text = _render(name, survey, wanted, file)
    try:
        spec.AuditSpec.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        problem = spec.problem_of(error, spec.AuditSpec.model_fields)
        raise UserError(f"no spec can be written with these answers: {problem}") from error
    return text


def _render(name: str, survey: Survey, wanted: Wanted, file: str) -> str:
    environment = jinja2.Environment(
        trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"yaml": _flow, "entry": _entry}
    template = environment.from_string(
        resources.files("ttame_core.data").joinpath("draft.yaml.j2").read_text(encoding="utf-8")
    )
    dataset, train = survey.dataset, survey.in_split("train")
    batch = min(BATCH, max(2, train // 4)) if train < 4 * BATCH else BATCH
    small = batch if batch < BATCH else None
    several = {c: survey.objects[c] for c in survey.images if len(survey.objects.get(c, ())) > 1}
    return template.render(
        name=name,
        file=file,
        total=survey.total,
        classes=_classes(survey),
        source=dataset.source.model_dump(exclude_defaults=True),
        annotations=dataset.annotations and dataset.annotations.model_dump(exclude_defaults=True),
        annotated=survey.annotated,
        objects=several,
        example={label: names[:1] for label, names in list(several.items())[:1]},
        own_splits=isinstance(getattr(dataset.source, "path", None), dict),
        splits=dataset.splits,
        sides=survey.sides,
        shrink=survey.sides[2] > 2 * MAX_SIZE,
        max_size=MAX_SIZE,
        backbones=[_backbone(model, len(_classes(survey)), wanted.own) for model in wanted.models]
        or [_own_classifier(small)],
        explainers=[
            *(["ttame"] if train else []),
            *("gradcam", "random"),
            *(["oracle"] if dataset.annotations else []),
        ],
        untrained=not train,
        batch_size=small,
    )


def _classes(survey: Survey) -> list[str]:
    return [name for name in survey.images if name != UNLABELLED]


def _own_classifier(batch_size: int | None) -> dict[str, Any]:
    return {
        "section": SMALL | {"fit": {"batch_size": batch_size} if batch_size else {}},
        "comment": "A small classifier that is trained on these images first, so that there is "
        "something to audit.",
    }


def _backbone(model: str, classes: int, own: dict[str, str]) -> dict[str, Any]:
    """Make a backbone's section, with the weights and the class names that its owner gave."""
    try:
        checked = spec.Backbone.model_validate(model)
    except ValidationError as error:
        problem = spec.problem_of(error, spec.Backbone.model_fields)
        raise UserError(f"{model!r} cannot be a model in a spec: {problem}") from error
    if checked.library == "factory":
        comment = f"Its code runs only where the environment says so: export {spec.TRUSTED}={model}"
        return {"section": {"model": model, **own}, "comment": comment}
    if checked.library == "huggingface":  # the number of its classes is not known
        return {"section": {"model": model, **own}, "comment": ""}
    known = _classes_of(checked)
    if "checkpoint" in own:
        return {"section": {"model": model, **own}, "comment": ""}
    if own:
        return {"section": {"model": model, "pretrained": True, **own}, "comment": ""}
    comment = (
        f"Its {known} published classes are matched with the {classes} of these images by name; "
        "`labels: {CLASS: ITS CLASS}` says it of others. For weights of your own write "
        "`{model: …, checkpoint: FILE, class_names: FILE}`."
    )
    return {"section": model, "comment": "" if classes in (0, known) else comment}


def _classes_of(backbone: spec.Backbone) -> int:
    """Return the number of classes of a model's pretrained weights.

    Raises:
        UserError: the model is unknown.
    """
    if backbone.library == "torchvision":
        return IMAGENET
    import timm

    architecture = backbone.model.partition(".")[0]
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise UserError(
            f"unknown model {backbone.model}: timm has no such architecture."
            + nearest(architecture, known)
        )
    config = timm.models.get_pretrained_cfg(backbone.model)
    return config.num_classes if config else 0


def _flow(value: Any) -> str:
    """Write a value as YAML in one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**9
    )
    return text.removesuffix("...\n").strip()


def _entry(value: Any) -> str:
    """Write a mapping as an entry of a YAML list, with a line for each key."""
    if isinstance(value, str):
        return f"- {value}"
    lines = [f"{key}: {_flow(below)}" for key, below in value.items()]
    return "- " + "\n    ".join(lines)
