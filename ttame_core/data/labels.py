"""Labels of images, which are text in every source, and the classes that they stand for.

Where all labels are numbers, they are numbers of classes, in folders, lists and manifests alike.
Otherwise they are names of classes, whose order is that of the spec or of the alphabet. A picture
may have several labels.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from ttame_core.data.files import shown

LONGEST = 4096  # characters of a text about a picture
UNKNOWN = -1  # number that stands for a missing label
SEVERAL = "\x1f"  # between the labels of a picture that has several
MOST = 100_000  # larger numbers are taken for identifiers, not for positions in a list of classes
MISSING = ("nan", "NaN", "<NA>")  # texts that stand for no value in what NumPy and pandas write
_NUMBER = re.compile(r"([0-9]+)(?:\.0*)?", re.ASCII)


def text_of(value: Any, what: str) -> str:
    """Return a value of a table as text, with whole numbers without their fraction.

    Args:
        value: the value; None and NaN give an empty text.
        what: the value's meaning, as a noun, for errors.

    Raises:
        ValueError: the value is neither a text nor a whole number.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        if len(value) > LONGEST:
            raise ValueError(f"the {what} has {len(value)} characters, which no path has")
        if shown(value) != value:
            raise ValueError(f"the {what} {shown(value)!r} is not UTF-8 text")
        return value
    if value is None or value != value:
        return ""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        with suppress(ArithmeticError, ValueError):
            if value == int(value):
                return str(int(value))
    raise ValueError(
        f"the {what} is {repr(value)[:80]}, a {type(value).__name__}: give a text or a whole number"
    )


def composed(name: str) -> str:
    """Return a name in the one form of Unicode in which equal letters are equal characters.

    Some systems write the é of a file's name as one character, others as two.
    """
    return unicodedata.normalize("NFC", name)


def visible(text: str) -> str:
    """Return a text without spaces and characters that nobody sees (of format) at its ends."""
    first, last = 0, len(text)
    while first < last and _is_unseen(text[first]):
        first += 1
    while last > first and _is_unseen(text[last - 1]):
        last -= 1
    return text[first:last]


def _is_unseen(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf"


def label_of(value: Any) -> str:
    """Return a value of a table as the label of a picture.

    Raises:
        ValueError: the value is missing, negative, or neither a text nor a whole number.
    """
    label = visible(text_of(value, "label"))
    if not label:
        raise ValueError("the label is missing")
    if label in MISSING:
        raise ValueError(f"the label is missing: {label} is what tables write in its place")
    if is_negative(label):
        raise ValueError(f"the label {label} is negative; classes count from 0")
    return label


def labels_of(value: Any, separator: str | None = None) -> str | None:
    """Return a value of a table as the labels of a picture, of which there may be several.

    Args:
        value: a label, or a list of labels.
        separator: text between the labels of a picture that is one text; None: it is one label.

    Returns:
        The labels with SEVERAL between them, each once; None for an empty list.

    Raises:
        ValueError: a label is missing, negative, or neither a text nor a whole number.
    """
    if isinstance(value, list | tuple):
        labels = [label_of(one) for one in value]
        floats = any(isinstance(one, float) for one in value)
        if floats or (set(labels) <= {"0", "1"} and len(set(labels)) < len(labels)):
            raise ValueError(
                f"the list {', '.join(labels[:8])} may be a number for each class: give the names "
                "or the numbers of the picture's classes, each once"
            )
        return SEVERAL.join(dict.fromkeys(labels)) or None
    label = label_of(value)
    if separator and separator in label:
        several = [one.strip() for one in label.split(separator)]
        return labels_of([one for one in several if one] or [""])
    return label


def alike_names(names: Collection[str]) -> list[list[str]]:
    """Return the groups of names that only case, spaces, `_`, `-` or unseen characters part."""
    groups: dict[str, list[str]] = {}
    for name in names:
        seen = (c for c in unicodedata.normalize("NFKC", name).casefold() if not _is_unseen(c))
        groups.setdefault(re.sub(r"[_-]+", "", "".join(seen)), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def each_label(label: str | None) -> list[str]:
    """Return the labels in a text of `labels_of`."""
    return label.split(SEVERAL) if label else []


def is_negative(label: str) -> bool:
    """Say whether a label is a number below 0."""
    return label.startswith("-") and number_of(label[1:]) is not None


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
