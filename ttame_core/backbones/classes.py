"""The names of a classifier's classes: from the spec, the model, or the lists of ImageNet in timm.

A class of ImageNet has a WordNet identifier (wnid, such as n01877812), synonyms (`wallaby, brush
kangaroo`) and a definition.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ttame_core import spec
from ttame_core.errors import UserError, nearest

if TYPE_CHECKING:
    from timm.data import ImageNetInfo

IMAGENET = "imagenet-1k"
ALIKE = 0.9  # the share of ImageNet's names in their places by which a list of names is ImageNet's
_WNID = re.compile(r"(n[0-9]{8})(?![0-9])[\s:,_-]*(.*)", re.DOTALL)
_PLACEHOLDER = re.compile(r"(label|class)?[\s_]*[0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class ClassName:
    """The name of one class.

    Attributes:
        name: for readers; no other class of the classifier has the same.
        full: all that the class is called, synonyms divided by commas.
        wnid: its WordNet identifier; empty where there is none.
        definition: a few words; empty where there are none.
    """

    name: str
    full: str
    wnid: str = ""
    definition: str = ""

    @property
    def synonyms(self) -> list[str]:
        """All that the class may be called, in a form that can be compared."""
        return [plain(part) for part in (self.name, self.full, *self.full.split(","))]


@dataclass(frozen=True)
class ClassList:
    """The names of all classes of a classifier, in the order of its logits.

    Attributes:
        entries: the name of each class; empty where the names are not known.
        given: whether a spec or the model itself gives the names. False for names that are
            ImageNet's only because the number of classes is: they are used only where the names of
            a data set's classes confirm them.
    """

    entries: tuple[ClassName, ...] = ()
    given: bool = True

    @property
    def names(self) -> list[str]:
        """The name of each class, for readers."""
        return [entry.name for entry in self.entries]

    @cached_property
    def _numbers(self) -> tuple[dict[str, list[int]], ...]:
        """Three mappings to numbers of classes: from wnids, from whole names, from synonyms."""
        by_wnid: dict[str, list[int]] = {}
        by_name: dict[str, list[int]] = {}
        by_synonym: dict[str, list[int]] = {}
        for number, entry in enumerate(self.entries):
            if entry.wnid:
                by_wnid.setdefault(entry.wnid, []).append(number)
            for name in {plain(entry.name), plain(entry.full)}:
                by_name.setdefault(name, []).append(number)
            for name in set(entry.synonyms):
                by_synonym.setdefault(name, []).append(number)
        return by_wnid, by_name, by_synonym

    def of_wnid(self, text: str) -> list[int]:
        """Return the numbers of the classes with the WordNet identifier that a text begins with."""
        found = _WNID.fullmatch(text)
        return self._numbers[0].get(found[1], []) if found else []

    def of_name(self, text: str) -> list[int]:
        """Return the numbers of the classes with this name, several where they share it.

        Upper or lower case, and spaces, `-` or `_` between words, make no difference.
        """
        _, by_name, by_synonym = self._numbers
        return by_name.get(plain(text)) or by_synonym.get(plain(text)) or []

    def find(self, text: str) -> list[int]:
        """Return the numbers of the classes that a wnid or a name may mean."""
        return self.of_wnid(text) or self.of_name(text)

    def nearest(self, text: str) -> str:
        """Return ' Did you mean …?' with the most similar names; '' where none is similar."""
        return nearest(plain(text), self._numbers[2])

    def number_of(self, wanted: str) -> int:
        """Return the number of the class that somebody asks for.

        Args:
            wanted: name of the class, a synonym, its wnid or its number.

        Raises:
            UserError: no class, or more than one, has this name.
        """
        found = self.find(wanted)
        if not found and wanted.isascii() and wanted.isdigit() and int(wanted) < len(self.entries):
            return int(wanted)
        if len(found) == 1:
            return found[0]
        if found:
            which = ", ".join(f"{self.names[number]} ({number})" for number in found)
            raise UserError(f"{wanted} is the name of several classes: {which}; say its number")
        examples = [name for name in self.names[:3] if not _PLACEHOLDER.fullmatch(name)]
        such = f", such as {', '.join(examples)}" if examples else ""
        raise UserError(
            f"there is no class {wanted}: the classifier has the classes 0 to "
            f"{len(self.entries) - 1}{such}." + self.nearest(wanted)
        )

    def for_readers(self, count: int) -> ClassList:
        """Return a list with a name for each of `count` classes: `class 0` and so on if unknown."""
        if self.entries and self.given:
            return self
        return ClassList(tuple(ClassName(f"class {i}", f"class {i}") for i in range(count)))


def plain(name: str) -> str:
    """Return a name in a form for comparison: in lower case, with single spaces for `_` and `-`."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()


def class_list(settings: spec.Backbone, model: nn.Module, count: int) -> ClassList:
    """Return the names of a classifier's classes; an empty list where they are not known.

    Args:
        settings: the backbone's section of a spec.
        model: the network, as it was created.
        count: number of the network's logits.

    Raises:
        UserError: `class_names` cannot be read, or does not have `count` names.
    """
    if settings.class_names is not None:
        return ClassList(_given(settings, count))
    own = _own_names(settings, model)
    if len(own) == count:
        return ClassList(_entries(own))
    subset = _subset_of(count)
    if subset is None:
        return ClassList()
    from_library = settings.pretrained and settings.library in ("timm", "torchvision")
    return ClassList(_imagenet(subset), given=from_library and settings.fit is None)


def names_of(texts: Sequence[str]) -> ClassList:
    """Return a list of classes with these names; a wnid is replaced by its name in WordNet."""
    return ClassList(_entries(texts))


def synonyms_of_wnid(text: str) -> list[str]:
    """Return the names of the WordNet identifier that a text begins with; none without one."""
    found = _WNID.fullmatch(text)
    return [found[2], *_lemma(found[1]).split(",")] if found else []


def is_wnid(text: str) -> bool:
    """Say whether a text is a WordNet identifier, or begins with one."""
    return _WNID.fullmatch(text) is not None


# ---- where names come from -------------------------------------------------------------------


def _given(settings: spec.Backbone, count: int) -> tuple[ClassName, ...]:
    """Return the class names in `class_names` of a spec: a list, a file, or a list of timm's."""
    given = settings.class_names
    if isinstance(given, str):
        subset = _subset(given)
        entries = _imagenet(subset) if subset else _entries(_read(given, settings.name))
    else:
        entries = _entries(given or ())
    if len(entries) != count:
        raise UserError(
            f"backbone {settings.name} has {count} classes, but `class_names` names {len(entries)}"
        )
    return entries


def _subset(name: str) -> str | None:
    try:
        _list(name)
    except AssertionError:
        return None
    return name


def _subset_of(count: int) -> str | None:
    """Return the name of timm's list with so many of ImageNet's classes."""
    from timm.data import infer_imagenet_subset

    return infer_imagenet_subset({"num_classes": count})


def _read(path: str, backbone: str) -> list[str]:
    """Read class names from a file: a line each, or JSON: a list, or names by number."""
    try:
        file = Path(path).expanduser()
        if file.exists() and not file.is_file():  # a pipe has no end
            raise OSError("it is no plain file")
        text = file.read_text(encoding="utf-8-sig")
        if not path.lower().endswith(".json"):
            return [line.strip() for line in text.splitlines() if line.strip()]
        content = json.loads(text)
        if isinstance(content, dict):
            if not all(str(key).isdigit() for key in content):
                content = {number: name for name, number in content.items()}
            content = _by_number({int(key): name for key, name in content.items()})
        return [" ".join(entry) if isinstance(entry, list) else str(entry) for entry in content]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"backbone {backbone}: the class names in {path} cannot be read ({error}): give a text "
            f"file of a name a line, a JSON list, or the name of a list of timm such as {IMAGENET}"
        ) from error


def _own_names(settings: spec.Backbone, model: Any) -> list[str]:
    """Return the class names in a model's own configuration; none where it has none."""
    about = getattr(model, "config", None)
    labels = getattr(about, "id2label", None) or {}
    named = {int(number): str(name or "") for number, name in dict(labels).items()}
    if named and not all(_PLACEHOLDER.fullmatch(name) for name in named.values()):
        for name, number in dict(getattr(about, "label2id", None) or {}).items():
            if named.get(int(number), name) != name:
                raise UserError(
                    f"backbone {settings.name}: class {number} is {named[int(number)]} in its "
                    f"`id2label` and {name} in its `label2id`: mend its config.json, or give "
                    "`class_names`"
                )
        try:
            return _by_number(named)
        except ValueError as error:
            raise UserError(f"backbone {settings.name}: in its `id2label` {error}") from error
    if not settings.pretrained or settings.fit is not None:
        return []
    if settings.library == "torchvision":
        from torchvision import models

        name, _, tag = settings.model.removeprefix("torchvision/").partition(".")
        return list(models.get_model_weights(name)[tag or "DEFAULT"].meta["categories"])
    config = getattr(model, "pretrained_cfg", None) or {}
    names = list(config.get("label_names") or ())
    described = config.get("label_descriptions") or {}
    if isinstance(described, dict):
        return [" ".join(dict.fromkeys([name, described.get(name, name)])) for name in names]
    return names


def _by_number(names: Mapping[int, Any]) -> list[Any]:
    """Return names in the order of their numbers; raises ValueError where numbers are missing."""
    numbers = sorted(names)
    if numbers and numbers != [*range(numbers[0], numbers[0] + len(numbers))]:
        missing = min({*range(numbers[0], numbers[-1])} - {*numbers})
        raise ValueError(f"no class has the number {missing}, so that the others are not known")
    if numbers and numbers[0] > 1:
        raise ValueError(f"the first class has the number {numbers[0]}: count from 0")
    return [names[number] for number in numbers]


def _entries(texts: Sequence[str]) -> tuple[ClassName, ...]:
    """Return the entries of texts that are names, wnids, or wnids followed by names."""
    entries = []
    for number, text in enumerate(texts):
        text = text.strip() or f"class {number}"
        if found := _WNID.fullmatch(text):
            full = found[2].strip() or _lemma(found[1]) or text
            entries.append(ClassName(full, full, found[1], _definition(found[1])))
        else:
            entries.append(ClassName(text, text))
    return _distinct(_with_wnids(entries))


def _with_wnids(entries: list[ClassName]) -> list[ClassName]:
    """Add wnids to names that are ImageNet's in ImageNet's order."""
    subset = _subset_of(len(entries))
    if subset is None or any(entry.wnid for entry in entries):
        return entries
    known = _imagenet(subset)
    pairs = list(zip(entries, known, strict=True))
    alike = sum(not set(ours.synonyms).isdisjoint(theirs.synonyms) for ours, theirs in pairs)
    if alike < ALIKE * len(entries):
        return entries
    return [
        replace(
            ours, full=f"{ours.full}, {theirs.full}", wnid=theirs.wnid, definition=theirs.definition
        )
        for ours, theirs in pairs
    ]


@lru_cache(maxsize=4)
def _imagenet(subset: str) -> tuple[ClassName, ...]:
    """Return the entries of one of timm's lists of ImageNet's classes."""
    wnids = _list(subset).label_names()
    lemmas = [_lemma(wnid) or wnid for wnid in wnids]
    return _distinct(
        [
            ClassName(lemma, lemma, wnid, _definition(wnid))
            for wnid, lemma in zip(wnids, lemmas, strict=True)
        ]
    )


def _distinct(entries: Sequence[ClassName]) -> tuple[ClassName, ...]:
    """Shorten ImageNet's names to the first of their synonyms, and make equal names distinct."""
    short = [entry.name.split(",")[0] if entry.wnid else entry.name for entry in entries]
    for longer in (
        lambda number, entry: entry.name,
        lambda number, entry: f"{entry.name} ({entry.wnid or number})",
    ):
        several = Counter(short)
        short = [
            name if several[name] == 1 else longer(number, entry)
            for number, (name, entry) in enumerate(zip(short, entries, strict=True))
        ]
    return tuple(replace(entry, name=name) for name, entry in zip(short, entries, strict=True))


def _lemma(wnid: str) -> str:
    try:
        return _list(IMAGENET).label_name_to_description(wnid)
    except KeyError:
        return ""


def _definition(wnid: str) -> str:
    try:
        both = _list(IMAGENET).label_name_to_description(wnid, detailed=True)
    except KeyError:
        return ""
    return both.removeprefix(f"{_lemma(wnid)}: ")


@lru_cache(maxsize=4)
def _list(subset: str) -> ImageNetInfo:
    """Return one of timm's lists of ImageNet's classes, with what WordNet says of them."""
    from timm.data import ImageNetInfo

    return ImageNetInfo(subset)
