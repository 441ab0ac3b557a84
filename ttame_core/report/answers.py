"""An answer to a question about an audit, and how its sentences list and count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["good", "care", "bad", "plain"]


@dataclass(frozen=True)
class Line:
    """A sentence of an answer.

    Attributes:
        words: the sentence.
        link: id of the part of the page that it is about.
        quiet: whether it tells what is not known, and so is no finding.
    """

    words: str
    link: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Answer:
    """An answer to a question about an audit.

    Attributes:
        question: the question.
        tone: colour of the answer, which only repeats the words.
        short: the answer in a few words.
        lines: sentences that explain the answer.
    """

    question: str
    tone: Tone
    short: str
    lines: list[Line] = field(default_factory=list)


def counted(number: int, noun: str, several: str = "") -> str:
    """Write a number of things, such as `1 class` or `1,200 images`.

    Args:
        number: the number.
        noun: the noun in the singular.
        several: the plural; default: the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Write names as `a, b and c`; beyond `most` names, the number of the others."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
