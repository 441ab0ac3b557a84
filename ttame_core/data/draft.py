"""Writing of a commented spec for somebody's own pictures, from a survey of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import timm
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


def draft(name: str, survey: Survey, models: Sequence[str], file: str) -> str:
    """Write the YAML text of a spec.

    Args:
        name: name of the audit.
        survey: survey of the pictures.
        models: classifiers, as a spec names them; none for a small one that the audit trains.
        file: path that the spec will have, for the commands in its comments.

    Raises:
        UserError: the name or a model cannot be in a spec.
    """
    if not _classes(survey) and not models:
        raise UserError(
            "the images have no labels, so that no classifier can be trained on them: name one "
            "with --model"
        )
    text = _render(name, survey, models, file)
    try:
        spec.AuditSpec.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        problem = spec.problem_of(error, spec.AuditSpec.model_fields)
        raise UserError(f"no spec can be written with these answers: {problem}") from error
    return text


def _render(name: str, survey: Survey, models: Sequence[str], file: str) -> str:
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
        backbones=[_backbone(model, len(_classes(survey)), small) for model in models]
        or [_own_classifier(small)],
        explainers=["ttame", "gradcam", "random", *(["oracle"] if dataset.annotations else [])],
        batch_size=small,
    )


def _classes(survey: Survey) -> list[str]:
    return [name for name in survey.images if name != UNLABELLED]


def _own_classifier(batch_size: int | None) -> dict[str, Any]:
    return {
        "section": SMALL | {"fit": _fit({}, batch_size)},
        "comment": "A small classifier that is trained on these images first, so that there is "
        "something to audit.",
    }


def _fit(settings: dict[str, Any], batch_size: int | None) -> dict[str, Any]:
    return settings | ({"batch_size": batch_size} if batch_size else {})


def _backbone(model: str, classes: int, batch_size: int | None) -> dict[str, Any]:
    """Make a backbone's section, with `fit` where the model has another number of classes."""
    try:
        checked = spec.Backbone.model_validate(model)
    except ValidationError as error:
        problem = spec.problem_of(error, spec.Backbone.model_fields)
        raise UserError(f"{model!r} cannot be a model in a spec: {problem}") from error
    if checked.library == "factory":  # users trust what they name themselves
        return {"section": {"model": model, "trust": True}, "comment": ""}
    if checked.library == "huggingface":  # the number of its classes is not known
        return {"section": {"model": model}, "comment": ""}
    known = _classes_of(checked)
    if classes in (0, known):
        return {"section": model, "comment": ""}
    fit = _fit({"epochs": 10}, batch_size)
    return {
        "section": {"model": model, "pretrained": True, "fit": fit},
        "comment": f"Its {known} classes are not the {classes} of these images: `fit` trains it "
        "for them first.",
    }


def _classes_of(backbone: spec.Backbone) -> int:
    """Return the number of classes of a model's pretrained weights.

    Raises:
        UserError: the model is unknown.
    """
    if backbone.library == "torchvision":
        return IMAGENET
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
