"""Which class of a classifier each class of a data set is: the rule, and what it found.

In this order, each class by the first that tells:

1. `labels` of the spec: {kangaroo: wallaby}, or a wnid or number in the place of the name;
2. its name, or a synonym of it, is a class's (case, `_`, `-` and spaces do not matter), or its
   WordNet identifier is.

Where that finds nothing at all, for all classes at once:

3. the order of `dataset.classes`, where it names as many classes as the classifier has;
4. their numbers, where all labels are numbers that the classifier has;
5. their places in the sorted list, where both have as many classes and names say nothing.

A classifier that is trained on the data set has the classes of the data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttame_core.backbones.classes import ClassList, is_wnid, names_of, synonyms_of_wnid
from ttame_core.data.labels import UNKNOWN, number_of
from ttame_core.errors import UserError, nearest

EXAMPLES = 5  # classes that a sentence names
# How a class was found, in the words of the sentence that says so.
RULES = {
    "labels": "by `labels`",
    "name": "by name",
    "wnid": "by WordNet identifier",
    "order": "by their places in `dataset.classes`",
    "number": "by number",
    "position": "by their places in the sorted list alone",
    "fit": "because the classifier is trained on them",
}


@dataclass(frozen=True)
class DataClasses:
    """The classes of a data set.

    Attributes:
        names: names of all classes, in the order of their labels.
        present: labels that images have, sorted.
        ordered: whether `dataset.classes` of the spec names them, in the classifiers' order.
    """

    names: Sequence[str]
    present: Sequence[int]
    ordered: bool = False

    @property
    def numbered(self) -> bool:
        """Whether all labels that images have are numbers."""
        return all(number_of(self.names[label]) is not None for label in self.present)


@dataclass(frozen=True)
class Classifier:
    """What is known of the classes of a classifier.

    Attributes:
        name: name of the backbone.
        count: number of its classes.
        classes: names of its classes, where they are known.
    """

    name: str
    count: int
    classes: ClassList


@dataclass(frozen=True)
class Match:
    """Which class of a classifier each class of a data set is.

    Attributes:
        data: the classes of the data set.
        classes: for each label of the data set, the number of the classifier's class; None where
            the classifier has no such class.
        rules: for each label, the rule that found the class, a key of RULES; empty where there is
            no class.
        theirs: names of the classifier's classes, for readers: its own names, else those of the
            data set, else `class 7`.
    """

    data: DataClasses
    classes: Sequence[int | None]
    rules: Sequence[str]
    theirs: ClassList

    def translate(self, labels: Tensor) -> Tensor:
        """Translate labels (…) of the data set to classes of the classifier, UNKNOWN for none."""
        table = [UNKNOWN if number is None else number for number in self.classes]
        return torch.tensor([*table, UNKNOWN])[labels]  # the last is that of UNKNOWN, -1

    @property
    def unmatched(self) -> list[str]:
        """The names of the images' classes that the classifier does not have."""
        return [self.data.names[i] for i in self.data.present if self.classes[i] is None]

    @property
    def sentence(self) -> str:
        """A sentence for readers on how many classes were matched, and by which rules."""
        if not self.data.present:
            return "The images have no labels: accuracy is not known."
        found = [label for label in self.data.present if self.classes[label] is not None]
        total = len(self.data.present)
        counts = Counter(self.rules[label] for label in found)
        how = ", ".join(
            f"{f'{count} ' if len(counts) > 1 else ''}{RULES[rule]}"
            for rule, count in counts.most_common()
        )
        pairs = [self._pair(label) for label in found]
        named = f" ({_some(pairs)})" if any(" = " in pair for pair in pairs) else ""
        said = f"{len(found)} of {total} {_classes(total)} of the data set matched {how}{named}."
        if self.unmatched:
            said += (
                f" Without a class of the classifier, and so left out of the accuracy: "
                f"{_some(self.unmatched)}."
            )
        return said

    def _pair(self, label: int) -> str:
        own, number = self.data.names[label], self.classes[label]
        assert number is not None
        theirs = self.theirs.names[number]
        return own if own == theirs else f"{own} = {theirs}"


def match_classes(
    data: DataClasses, classifier: Classifier, labels: Mapping[str, str], fit: bool = False
) -> Match:
    """Find the classifier's class of each class of a data set.

    Args:
        data: the classes of the data set.
        classifier: the classifier and its classes.
        labels: names, wnids or numbers of the classifier's classes, by names of the data set's.
        fit: whether the classifier is trained on the data set.

    Raises:
        UserError: not one class can be matched, or `labels` names a class that does not exist.
    """
    if fit:
        own = [*range(len(data.names))]
        return Match(data, own, ["fit"] * len(own), _borrowed(data, own, len(own)))
    found, known = _one_by_one(data, classifier, labels), classifier.classes
    by_name = {rule for _, rule in found.values()} & {"name", "wnid"}
    if not (known.given or by_name):
        known = ClassList()
    if not found and data.present:
        found = _all_at_once(data, classifier, known)
    classes = [found[i][0] if i in found else None for i in range(len(data.names))]
    rules = [found[i][1] if i in found else "" for i in range(len(data.names))]
    theirs = known if known.entries else _borrowed(data, classes, classifier.count)
    return Match(data, classes, rules, theirs)


Found = dict[int, tuple[int, str]]  # class of the classifier and rule, by label


def _one_by_one(data: DataClasses, classifier: Classifier, labels: Mapping[str, str]) -> Found:
    """Match each class by itself: by the spec's `labels`, or by its name or wnid."""
    for name in labels:
        if name not in data.names:
            raise UserError(
                f"`labels` names the class {name}, which the data set does not have."
                + nearest(name, data.names)
            )
    found: Found = {}
    for label in data.present:
        name = data.names[label]
        if name in labels:
            found[label] = _said(labels[name], classifier, name), "labels"
        elif len(numbers := classifier.classes.of_wnid(name)) == 1:
            found[label] = numbers[0], "wnid"
        elif len(numbers := classifier.classes.of_name(name)) == 1:
            found[label] = numbers[0], "name"
        elif not numbers and is_wnid(name):
            wanted = (classifier.classes.of_name(word) for word in synonyms_of_wnid(name) if word)
            if numbers := next((some for some in wanted if len(some) == 1), []):
                found[label] = numbers[0], "wnid"
    return found


def _said(wanted: str, classifier: Classifier, name: str) -> int:
    """Return the number of the classifier's class that `labels` gives for the data set's `name`.

    Args:
        wanted: name, wnid or number of the classifier's class.
        classifier: the classifier and its classes.
        name: name of the data set's class, for messages.
    """
    numbers = classifier.classes.find(wanted)
    number = number_of(wanted)
    if not numbers and number is not None and number < classifier.count:
        return number
    if len(numbers) == 1:
        return numbers[0]
    where = f"`labels` says that {name} is {wanted}, which"
    if numbers:
        several = _some([classifier.classes.entries[i].wnid or str(i) for i in numbers])
        raise UserError(
            f"{where} is the name of several classes of backbone {classifier.name}: say which, "
            f"{several}"
        )
    raise UserError(
        f"{where} is no class of backbone {classifier.name}." + classifier.classes.nearest(wanted)
    )


def _all_at_once(data: DataClasses, classifier: Classifier, known: ClassList) -> Found:
    """Match all classes by one rule where no name matches: by their order, numbers or places."""
    if data.ordered and len(data.names) == classifier.count:
        return {label: (label, "order") for label in data.present}
    numbers = [number_of(data.names[label]) for label in data.present]
    if all(number is not None and number < classifier.count for number in numbers):
        pairs = zip(data.present, numbers, strict=True)
        return {label: (int(number or 0), "number") for label, number in pairs}
    if not known.entries or data.numbered:
        for labels in (range(len(data.names)), data.present):
            if len(labels) == classifier.count:
                return {label: (place, "position") for place, label in enumerate(labels)}
    raise _nothing_found(data, classifier, known)


def _nothing_found(data: DataClasses, classifier: Classifier, known: ClassList) -> UserError:
    names = [data.names[label] for label in data.present]
    theirs = (
        f"which are called {_some(known.names)}"
        if known.entries
        else "whose names are not known (`class_names` of the backbone gives them)"
    )
    return UserError(
        f"the {len(names)} {_classes(len(names))} of the data set ({_some(names)}) cannot be "
        f"matched with the {classifier.count} of backbone {classifier.name}, {theirs}: say which "
        f"are which by `labels: {{{names[0]}: …}}`, name all classes in the classifier's order by "
        "`dataset.classes`, or train the classifier on them by `fit: {}`"
    )


def _borrowed(data: DataClasses, classes: Sequence[int | None], count: int) -> ClassList:
    """Return names for a classifier whose own are not known: those of the data set's classes.

    Args:
        data: the classes of the data set.
        classes: for each label of the data set, the classifier's class; None for none.
        count: number of the classifier's classes.
    """
    entries, own = [*ClassList().for_readers(count).entries], names_of(data.names).entries
    for label, number in enumerate(classes):
        if number is not None and number_of(data.names[label]) is None:
            entries[number] = own[label]
    return ClassList(tuple(entries))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more


def _classes(count: int) -> str:
    return "class" if count == 1 else "classes"
