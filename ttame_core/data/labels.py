"""Labels of images, which are text in every source, and the classes that they stand for.

Where all labels are numbers, they are numbers of classes, in folders, lists and manifests alike.
Otherwise they are names of classes, whose order is that of the spec or of the alphabet.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

UNKNOWN = -1  # number that stands for a missing label
MOST = 100_000  # larger numbers are taken for identifiers, not for positions in a list of classes
_NUMBER = re.compile(r"([0-9]+)(?:\.0*)?", re.ASCII)


def number_of(label: str) -> int | None:
    """Return the number in a label, such as 2 in `2`, `002` and `2.0`; None for a name."""
    match = _NUMBER.fullmatch(label)
    return int(match[1]) if match else None


def classes_of(labels: Collection[str]) -> tuple[str, ...]:
    """Return the names of the classes that labels stand for, in the order of the classes' numbers.

    Args:
        labels: all labels of a data set.

    Returns:
        `0`, `1`, … up to the largest label where all labels are numbers without leading zeros; else
        the sorted labels, by value where all are numbers.
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
    """Return the number of the class that a label stands for; None where it stands for none.

    Args:
        label: name of a class, or its number as text.
        classes: names of the classes in the order of their numbers.
    """
    if label in classes:
        return classes.index(label)
    number = number_of(label)
    if number is None:
        return None
    if str(number) in classes:
        return classes.index(str(number))
    return number if number < len(classes) else None
