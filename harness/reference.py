"""The page docs/spec.md, written from the descriptions of a spec's keys.

python -m harness.reference > docs/spec.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic.fields import FieldInfo

from ttame_core.data.annotations import REGISTRY as ANNOTATIONS
from ttame_core.data.sources import REGISTRY as SOURCES
from ttame_core.spec import AuditSpec, Section

INTRODUCTION = """\
# The keys of a spec

A spec is one YAML file that says what is audited and how; [Audit your own zoo](audit.md) explains
one. Here are all its keys, in the words that the program itself has for them. A key that does not
stand here is refused, with the nearest one that does. `${NAME}` is filled in by `--var NAME=VALUE`
or the environment, `${here}` by the spec's own folder.
"""
WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "array": "list",
    "object": "mapping",
}
PAGE = re.compile(r"docs/(\w+)\.md")
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
WITHIN = {  # what the short forms of a list's entries leave out
    "explainers": "An entry is a method, or a method with its settings: `- rise: {masks: 8000}`. "
    "The methods and their settings stand in [Explainers](explainers.md); `training` among them "
    "overrides keys of the section `training`.",
    "evaluation.metrics": "An entry is a family, or a family with its settings: "
    "`- confidence: {keep: [50, 15]}`. The families and their settings stand in "
    "[Metrics](metrics.md).",
    "gates": "An entry is a metric with one condition: "
    "`- AD@15: {explainer: ttame, worse_by: 2}` ([gates](audit.md#again-next-month)).",
    "backbones": "An entry may be the name of a pretrained model alone.",
}


def page() -> str:
    """Return the page in Markdown."""
    return "\n".join([INTRODUCTION, *_section("", AuditSpec)])


def _section(path: str, section: type[Section]) -> Iterator[str]:
    """Yield the table of a section's keys, and after it those of the sections within it."""
    if path:
        yield f"## {path}\n"
    if path in WITHIN:
        yield WITHIN[path] + "\n"
    yield from _table(section)
    for kind, settings in _kinds(path).items():
        yield f"### kind: {kind}\n"
        yield f"{_sentence(settings)}\n"
        yield from _table(settings.Settings)
    for name, field in section.model_fields.items():
        if inner := _section_in(field.annotation):
            yield from _section(f"{path}.{name}".lstrip("."), inner)


def _kinds(path: str) -> Mapping[str, Any]:
    own = {"dataset.source": SOURCES, "dataset.annotations": ANNOTATIONS}.get(path, {})
    return {n: own[n] for n in sorted(own) if own[n].__module__.startswith("ttame_core.")}


def _table(section: type[Section]) -> Iterator[str]:
    schema = section.model_json_schema()
    yield "| key | takes | default | what it is |"
    yield "| --- | --- | --- | --- |"
    for own, field in section.model_fields.items():
        name = field.alias or own
        takes = _takes(schema["properties"][name])
        about = PAGE.sub(r"[\1](\1.md)", field.description or "").replace("|", "\\|")
        yield f"| `{name}` | {takes} | {_default(field)} | {about} |"
    yield ""


def _takes(schema: Mapping[str, Any]) -> str:
    """Say what a key takes, by its JSON schema; that null is taken goes without saying."""
    if "anyOf" in schema:
        taken = [_takes(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(taken))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "$ref" in schema or "type" not in schema:
        return "a section"
    bounds = [f"{sign} {schema[name]:g}" for name, sign in BOUNDS.items() if name in schema]
    words = WORDS[schema["type"]]
    if "$ref" in schema.get("items", {}):
        words = "list of sections"
    elif "maxItems" in schema:
        words = f"{schema['maxItems']} numbers"
    elif schema.get("items", {}).get("type") == "number":
        words = "list of numbers"
    return " ".join([words, ", ".join(b for b in bounds if "e+" not in b)]).strip()


def _default(field: FieldInfo) -> str:
    """Say a key's default; nothing where a section or its description says it."""
    if field.is_required():
        return "required"
    value = None if field.default_factory else field.default
    if isinstance(value, dict | list | tuple):
        return ""
    if value is None or value == "" or isinstance(value, Section):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _section_in(annotation: Any) -> type[Section] | None:
    """Return the section that a key holds, alone or in a list; None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = [_section_in(part) for part in get_args(annotation)]
    return next(filter(None, inner), None)


def _sentence(documented: type) -> str:
    return re.split(r"\n\s*\n", (documented.__doc__ or "").strip())[0].replace("\n    ", " ")


if __name__ == "__main__":
    print(page(), end="")
