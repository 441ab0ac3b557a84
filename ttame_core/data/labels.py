"""Labels of images: text in every source, and which class of the data set each is.

Where all labels are numbers they are those of the classes, whether folders, lists or manifests have
them; else classes are names, and their order is that of the spec or of the alphabet.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

UNKNOWN = -1  # the label of an image without one, where a number must stand
MOST = 100_000  # larger numbers are identifiers, not places in a list of classes
_NUMBER = re.compile(r"([0-9]+)(?:\.0*)?", re.ASCII)


def number_of(label: str) -> int | None:
    """Return the number that a label is, such as 2 of `2`, `002` and `2.0`; None for a name."""
    found = _NUMBER.fullmatch(label)
    return int(found[1]) if found else None


def classes_of(labels: Collection[str]) -> tuple[str, ...]:
    """Return the names of the classes that labels tell of, in the order of their numbers.

    Args:
        labels: all that a data set has.

    Returns:
        `0`, `1`, … up to the largest label where all are numbers without leading zeros; else the
        labels themselves, sorted: by value where all are numbers.
    """
    numbers = {label: number_of(label) for label in labels}
    if not labels or None in numbers.values():
        return tuple(sorted(labels))
    by_value = sorted((number, label) for label, number in numbers.items() if number is not None)
    largest = by_value[-1][0]
    plain = all(label.partition(".")[0] == str(number) for number, label in by_value)
    if plain and largest < MOST:
        return tuple(str(number) for number in range(largest + 1))
    if plain:
        return tuple(dict.fromkeys(str(number) for number, _ in by_value))
    return tuple(label for _, label in by_value)


def class_of(label: str, classes: Sequence[str]) -> int | None:
    """Return the number of the class that a label is; None where it is none.

    Args:
        label: the name of a class, or its number as text.
        classes: names in the order of their numbers.
    """
    if label in classes:
        return classes.index(label)
    number = number_of(label)
    if number is None:
        return None
    if str(number) in classes:
        return classes.index(str(number))
    return number if number < len(classes) else None
