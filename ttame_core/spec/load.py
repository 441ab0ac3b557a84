"""Reading a spec from YAML, with variables, and with errors that name their line.

`${NAME}` in the file is replaced by what `--var NAME=VALUE` or the environment says, and `${here}`
by the folder of the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ttame_core.errors import UserError, nearest
from ttame_core.spec.audit import AuditSpec
from ttame_core.spec.base import message_of

MOST_NODES = 100_000  # values of a spec, each alias counted as what it stands for
DEEPEST = 100
SECRET = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|(^|_)(KEY|PWD|AUTH)(_|$)", re.I)


class SpecProblem(UserError):
    """Something wrong with a part of a spec.

    Attributes:
        words: a sentence on what is wrong and what is allowed.
        location: keys and list positions that lead to the part.
    """

    def __init__(self, words: str, location: tuple[str | int, ...] = ()) -> None:
        super().__init__(words)
        self.words, self.location = words, location

    def below(self, *keys: str | int) -> SpecProblem:
        """Return the same problem, with keys that lead to its part put before its location."""
        return SpecProblem(self.words, (*keys, *self.location))


class SpecProblems(UserError):
    """An error that lists all problems of a spec, one a line."""

    def __init__(self, problems: Sequence[SpecProblem]) -> None:
        super().__init__("\n".join(problem.words for problem in problems))
        self.problems = list(problems)

    def __reduce__(self) -> tuple[type[SpecProblems], tuple[list[SpecProblem]]]:
        return SpecProblems, (self.problems,)


def load_spec(
    path: str | Path,
    variables: Mapping[str, str] | None = None,
    complete: Callable[[AuditSpec], AuditSpec] = lambda audit: audit,
) -> AuditSpec:
    """Read and validate a spec.

    Args:
        path: path of the YAML file.
        variables: texts that replace `${NAME}` in the file, by name; they take precedence over
            environment variables.
        complete: function that checks the names and settings of explainers, metrics and other
            plug-ins, which this package does not know, and fills in their defaults; it raises
            SpecProblems.

    Raises:
        UserError: the file cannot be read or the spec is wrong; a line for each problem has file,
            line, key, what is wrong, and what is allowed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the spec {path}: {error}") from error
    try:
        node, data = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if twice := _key_given_twice(node):
        line, key = twice.start_mark.line + 1, twice.value
        raise UserError(f"{path}, line {line}, {key}: the key {key} stands there twice: delete one")
    if node is None or not isinstance(data, dict):
        raise UserError(f"{path} is not an audit spec: it must be a mapping with a key `name:`")
    here = str(Path(path).resolve().parent)
    data = _fill(data, {"here": here, **(variables or {})}, str(path))
    try:
        return complete(AuditSpec.model_validate(data))
    except ValidationError as error:
        lines = [_problem(e, node) for e in error.errors()]
        raise UserError("\n".join(f"{path}{line}" for line in lines)) from error
    except SpecProblems as error:
        lines = [_problem(_like_pydantic(problem), node) for problem in error.problems]
        raise UserError("\n".join(f"{path}{line}" for line in lines)) from error


def parse_yaml(text: str) -> tuple[yaml.Node | None, Any]:
    """Parse YAML of bounded depth, whose aliases stand for a bounded number of values.

    Returns:
        The nodes, which know their lines, and the values.

    Raises:
        ValueError: it is no YAML, or beyond the bounds.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_size(node)
        return node, yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def problems_of(
    error: ValidationError, model: type[BaseModel], given: Mapping[str, Any]
) -> list[SpecProblem]:
    """Translate pydantic's error about a part of a spec.

    Args:
        error: the error that validating the part raised.
        model: the class that validated the part.
        given: the part.
    """
    problems = []
    for one in error.errors():
        location: list[str | int] = []
        value: Any = given
        for part in one["loc"]:  # keys, and also names of a union's members
            if isinstance(value, Mapping) and part in value:
                location.append(part)
                value = value[part]
        if one["type"] == "missing":
            location.append(one["loc"][-1])
        problems.append(SpecProblem(_reason(one, [model]), tuple(location)))
    return problems


def _like_pydantic(problem: SpecProblem) -> dict[str, Any]:
    """Return a problem as a mapping with the keys of an entry of pydantic's `errors()`."""
    return {"loc": problem.location, "type": "told", "msg": problem.words, "input": {}}


def _check_size(node: yaml.Node | None) -> None:
    """Raise ValueError for YAML whose aliases lead back to themselves or expand without end."""
    sizes: dict[int, int] = {}

    def size(part: yaml.Node, depth: int) -> int:
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        if id(part) not in sizes:
            parts = part.value if isinstance(part, yaml.CollectionNode) else []
            below = [one for pair in parts for one in (pair if isinstance(pair, tuple) else [pair])]
            sizes[id(part)] = 1 + sum(size(one, depth + 1) for one in below)
        if sizes[id(part)] > MOST_NODES:
            raise ValueError(f"with its aliases it has more than {MOST_NODES} values")
        return sizes[id(part)]

    if node is not None:
        size(node, 0)


def _key_given_twice(node: yaml.Node | None) -> yaml.Node | None:
    """Return a key that a mapping has twice, or None; YAML itself takes the last one silently."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                return key
            seen.add(str(key.value))
        parts = [value for _, value in node.value]
    else:
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
    return next(filter(None, map(_key_given_twice, parts)), None)


def _fill(value: Any, given: Mapping[str, str], path: str) -> Any:
    """Replace `${NAME}` in all texts of a value: by `given`, or else by an environment variable."""
    if isinstance(value, dict):
        return {k: _fill(v, given, path) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, given, path) for v in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name = match[1]
        if name in given:
            return given[name]
        if name not in os.environ:
            raise UserError(
                f"{path} uses ${{{name}}}, which is not set: "
                f"add --var {name}=VALUE or set the environment variable {name}"
            )
        if SECRET.search(name):
            raise UserError(
                f"{path} uses ${{{name}}}, which by its name is a secret, and reports show the "
                f"spec to everybody: if it is no secret, give it with --var {name}=VALUE"
            )
        if re.search(r"://[^/\s]*@", os.environ[name]):
            raise UserError(
                f"{path} uses ${{{name}}}, an address with a user name or a password in it, and "
                "reports show the spec to everybody: leave them out of the address"
            )
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", look_up, value)


def _problem(error: Any, node: yaml.Node) -> str:
    """Write an error as one line, such as ', line 7, backbones[0].pretraned: unknown key; …'."""
    line, keys, model = node.start_mark.line + 1, "", AuditSpec
    models: list[type[BaseModel]] = [model]
    for part in error["loc"]:
        child = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, child = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            child = node.value[part]
            line = child.start_mark.line + 1
        if child is None and part != error["loc"][-1]:
            continue  # the name of a union's member, not a key
        if child is None and error["type"] not in ("missing", "extra_forbidden", "told"):
            continue
        keys += f"[{part}]" if isinstance(part, int) else f".{part}" if keys else str(part)
        models = _children(models, part) if part != error["loc"][-1] else models
        node = child if child is not None else node
    return f", line {line}, {keys or 'spec'}: {_reason(error, models)}"


def _reason(error: Any, models: list[type[BaseModel]]) -> str:
    fields = [item for model in models for item in model.model_fields.items()]
    allowed = sorted({field.alias or name for name, field in fields})
    if error["type"] == "extra_forbidden":
        key = str(error["loc"][-1])
        return f"unknown key; allowed: {', '.join(allowed)}.{nearest(key, allowed)}"
    given = "" if isinstance(error["input"], dict | list) else f" (got {error['input']!r})"
    bare = error["type"] == "string_type" and isinstance(error["input"], bool | int | float | date)
    return message_of(error) + given + ": put it in quotes" * bare


def _annotated_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    models = []
    for argument in getattr(annotation, "__args__", ()):
        models += _annotated_models(argument)
    return models


def _children(models: list[type[BaseModel]], part: Any) -> list[type[BaseModel]]:
    if isinstance(part, int):
        return models
    parts: list[type[BaseModel]] = []
    for model in models:
        if part in model.model_fields:
            parts += _annotated_models(model.model_fields[part].annotation)
    return parts or models
