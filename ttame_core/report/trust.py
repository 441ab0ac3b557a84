"""The rule of "Can the explanations be trusted?": what speaks for it, against it, and is not known.

Each reason is a row of the table in docs/trust.md. It weighs one kind of evidence about a backbone,
and is red (the explanations must not be relied on), amber (with care, or it is not known) or green.
The answer has the colour of the worst reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ttame_core.backbones.preprocessing import USUAL
from ttame_core.report.answers import Answer, Line, counted, listed
from ttame_core.report.evidence import ENOUGH, Evidence, Interval

QUESTION = "Can the explanations be trusted?"
SHOWN = 6  # reasons of the answer, at most; the page's table has all

IMAGES = 100  # images, under which intervals are wide
HALF = 50.0  # percent: of right predictions, and of the way to the annotated objects
PERMUTED = 0.8  # correlation with maps of permuted labels, from which they are much the same
RANDOMISED = (0.5, 0.9)  # rank correlation with maps of random weights: doubtful, much the same
SAME_PLACE = (0.7, 0.9)  # correlation of the maps of two images: doubtful, a fixed blob
SAME_CLASS = 0.9  # correlation of the maps of two classes, from which they are much the same


@dataclass(frozen=True)
class Weighed:
    """A reason, weighed for one backbone.

    Attributes:
        tone: colour, which only repeats the words.
        brief: the reason in a few words, for the head of the answer.
        words: the reason as a sentence without the backbone's name.
        known: whether it was measured; what is not known is amber.
    """

    tone: Literal["good", "care", "bad"]
    brief: str
    words: str
    known: bool = True

    @property
    def verdict(self) -> str:
        """The colour in a word."""
        if not self.known:
            return "not known"
        return {"good": "holds", "care": "doubtful", "bad": "fails"}[self.tone]


@dataclass(frozen=True)
class Reason:
    """A row of the rule.

    Attributes:
        title: name of the reason, as the table in docs/trust.md has it.
        weigh: function that weighs the evidence; None where the reason does not apply.
    """

    title: str
    weigh: Callable[[Evidence], Weighed | None]


@dataclass(frozen=True)
class Judged:
    """A reason, weighed for one backbone, with the names of both."""

    backbone: str
    title: str
    weighed: Weighed


def judged(evidence: Sequence[Evidence]) -> list[Judged]:
    """Weigh all reasons that apply, for each backbone.

    Of a backbone that failed only the failure is weighed, and without images nothing of the maps.
    """
    checks = []
    for own in evidence:
        reasons = REASONS[:1] if own.failure else REASONS if own.images else REASONS[:3]
        for reason in reasons:
            if weighed := reason.weigh(own):
                checks.append(Judged(own.backbone, reason.title, weighed))
    return checks


def trust(evidence: Sequence[Evidence]) -> Answer:
    """Answer whether the explanations of an audit can be trusted.

    Args:
        evidence: evidence about each backbone.
    """
    checks = judged(evidence)
    if not checks:
        return Answer(QUESTION, "bad", "No: no classifier was audited")
    holding = sum(f.weighed.tone == "good" for f in checks)
    bad = [f for f in checks if f.weighed.tone == "bad"]
    care = [f for f in checks if f.weighed.tone == "care" and f.weighed.known]
    unknown = [f for f in checks if not f.weighed.known]
    not_made = f"; not made: {len(unknown)}" if unknown else ""
    held = f"{holding} of {counted(len(checks), 'check')} hold{not_made}."
    lines = [Line(held, "trust"), *_sentences(checks)]
    if bad:
        if all(e.failure for e in evidence):
            return Answer(QUESTION, "bad", "No: every classifier failed", lines)
        own = max(([f for f in bad if f.title == r.title] for r in REASONS), key=len)
        names = [f.backbone for f in own]
        rest = list(dict.fromkeys(f.backbone for f in bad if f.backbone not in names))
        where = "No" if len(names) == len(evidence) else f"Not on {listed(names, 2)}"
        nor = f"; nor on {listed(rest, 2)}" if rest else ""
        return Answer(QUESTION, "bad", f"{where}: {own[0].weighed.brief}{nor}", lines)
    if care:
        more = len({f.title for f in checks if f.weighed.tone != "good"}) - 1
        others = f", and {counted(more, 'more reason')}" if more else ""
        names = list(dict.fromkeys(f.backbone for f in care if f.title == care[0].title))
        where = f" on {listed(names, 2)}" if len(names) < len(evidence) else ""
        short = f"With care{where}: {care[0].weighed.brief}{others}"
        return Answer(QUESTION, "care", short, lines)
    if unknown:
        short = f"Not fully known: {len(unknown)} of {counted(len(checks), 'check')} not made"
        return Answer(QUESTION, "care", short, lines)
    return Answer(QUESTION, "good", f"Yes: all {counted(len(checks), 'check')} hold", lines)


def _sentences(checks: Sequence[Judged]) -> list[Line]:
    """Return a sentence for each reason that does not hold, the worst first."""
    by_reason: dict[str, list[Judged]] = {}
    for check in checks:
        if check.weighed.tone != "good":
            by_reason.setdefault(check.title, []).append(check)
    order = {"bad": 0, "care": 1}

    def weight(check: Judged) -> tuple[int, bool]:
        return order[check.weighed.tone], not check.weighed.known

    ranked = sorted(by_reason.values(), key=lambda own: min(map(weight, own)))
    lines = []
    for own in ranked[:SHOWN]:
        worst = min(own, key=weight)
        also = [f.backbone for f in own if f is not worst]
        same = all(f.weighed.words == worst.weighed.words for f in own)
        names = listed([worst.backbone, *also], 3) if same else worst.backbone
        rest = f" Also in question on {listed(also, 3)}." if also and not same else ""
        lines.append(Line(f"{names}: {worst.weighed.words}{rest}", quiet=not worst.weighed.known))
    if len(ranked) > SHOWN:
        lines.append(Line(f"And {counted(len(ranked) - SHOWN, 'more reason')}.", "trust"))
    return lines


# ---- the reasons -----------------------------------------------------------------------------


def _run(own: Evidence) -> Weighed:
    if own.failure:
        text = f"{own.failure.rstrip('.')}." if len(own.failure) <= 160 else own.failure[:159] + "…"
        return Weighed("bad", "failed", f"it failed and is not in the tables: {text}")
    return Weighed("good", "ran to its end", "it ran to its end.")


def _gates(own: Evidence) -> Weighed | None:
    if not own.gates:
        return None
    if own.broken:
        held = own.gates - len(own.broken)
        words = f"{held} of {own.gates} checks of the gates hold: {own.broken[0]}"
        return Weighed("bad", "gates do not hold", words)
    return Weighed("good", "gates hold", f"all {counted(own.gates, 'check')} of the gates hold.")


def _images(own: Evidence) -> Weighed:
    number = counted(own.images, "image")
    if not own.images:
        return Weighed("bad", "no image was explained", "no image was explained.")
    if own.images < IMAGES:
        words = f"{number} are few: at least {IMAGES} are asked for."
        return Weighed("care", f"only {number}", words)
    return Weighed("good", number, f"{number} were explained.")


def _images_of_a_class(own: Evidence) -> Weighed:
    if not own.labelled or own.usual is None:
        words = "how many images each class has is not known: none has a label that it knows."
        return Weighed("care", "images without labels", words, known=False)
    if own.classes == 1:
        words = "all images are of one class: nothing is known of the others."
        return Weighed("care", "only one class", words)
    of_a_class = f"{own.usual:g} images of a class (median)"
    if own.usual < ENOUGH:
        return Weighed(
            "care",
            "few images of a class",
            f"there are {of_a_class}: at least {ENOUGH} are asked for.",
        )
    return Weighed("good", of_a_class, f"there are {of_a_class}.")


def _accuracy(own: Evidence) -> Weighed:
    right = own.accuracy
    if right is None:
        words = "its accuracy is not known: no image has a label that it knows."
        return Weighed("care", "accuracy not known", words, known=False)
    chance, guess = 100 / own.outputs if own.outputs else 0.0, "by guessing"
    if own.classes > 1 and own.commonest is not None and own.commonest > chance:
        chance, guess = own.commonest, "by always naming the commonest class"
    of = f"{right.value:.1f} % of its predictions are right ({_range(right)})"
    if right.value <= chance:
        words = (
            f"{of}, no more than {guess} ({chance:.1f} %): it is untrained, its input is prepared "
            "wrongly, or its classes are matched wrongly."
        )
        return Weighed("bad", "accuracy is no better than chance", words)
    if right.low <= chance:
        words = f"{of}, which may be chance ({chance:.1f} %)."
        return Weighed("care", "accuracy may be chance", words)
    if right.value < HALF:
        words = f"{of}: maps explain wrong answers more often than right ones."
        return Weighed("care", f"accuracy of {right.value:.0f} %", words)
    return Weighed("good", f"accuracy of {right.value:.0f} %", f"{of}.")


def _preprocessing(own: Evidence) -> Weighed | None:
    row = own.normalised
    if row is None:
        return None
    pictures = counted(row["pictures"], "picture")
    if row["way"] is None:
        words = f"the labels of {pictures} are not more probable when they are prepared otherwise."
        return Weighed("good", "preprocessing holds", words)
    before, after = f"{row['before']:.1f} %", f"{row['after']:.1f} %"
    if row["right_after"] is None:
        words = (
            f"the labels of {pictures} have a mean probability of {before}, but of {after} "
            f"{USUAL[row['way']]}"
        )
    else:
        words = (
            f"as the audit prepares {pictures}, it recognises {row['right_before']:.0f} % of them, "
            f"and the mean probability of their labels is {before}; {USUAL[row['way']]}, these "
            f"numbers are {row['right_after']:.0f} % and {after}"
        )
    words += ": the key preprocessing in the audit's YAML file seems to be wrong for it."
    return Weighed("care", "preprocessing in doubt", words)


def _discrimination(own: Evidence) -> Weighed:
    apart = own.discrimination
    if apart is None:
        words = (
            "whether its answers depend on which part of an image is left is not known: that "
            "takes annotated objects, and random and oracle among the explainers."
        )
        return Weighed("care", "discrimination not known", words, known=False)
    of = (
        f"random maps and the annotated objects are {apart.value:.1f} points of the average "
        f"drop (AD@15) apart ({_range(apart)}; at least {own.minimum:g} are asked for)"
    )
    if apart.value < own.minimum:
        words = (
            "which part of an image is left matters little to it, so how much of the confidence "
            f"that keeps (AD, IC and AG) ranks no explainer: {of}."
        )
        return Weighed("bad", "it matters little which part of an image is left", words)
    if apart.low < own.minimum:
        words = f"which part of an image is left may matter little to it: {of}."
        return Weighed("care", "it may matter little which part of an image is left", words)
    words = f"which part of an image is left matters to it: {of}."
    return Weighed("good", "it matters which part of an image is left", words)


def _way(own: Evidence) -> Weighed:
    if not own.gain:
        words = (
            "whether maps are better than random ones is not known: that takes random among the "
            "explainers, and confidence among the metrics."
        )
        return Weighed("care", "no random maps to compare with", words, known=False)
    blind = sorted(name for name, gain in own.gain.items() if not gain.low > 0)
    if len(blind) == len(own.gain):
        words = f"no explainer ({listed(blind, 6)}) is clearly better than random maps."
        return Weighed("bad", "no better than random maps", words)
    beside = f" {listed(blind, 4)}: no better than random maps." if blind else ""
    if not own.way:
        best = max(own.gain, key=lambda name: own.gain[name].value)
        gain = own.gain[best]
        others = {n: 100 * g.value / gain.value for n, g in own.gain.items() if n != best}
        rest = f" Of these points, {_shares(others)}." if others else ""
        words = (
            f"{best} keeps {gain.value:.1f} points more of the confidence than random maps "
            f"({_range(gain)}).{rest} How much a map could keep is not known: that takes annotated "
            f"objects, and oracle among the explainers.{beside}"
        )
        return Weighed("care", "maps not compared with annotated objects", words, known=False)
    best = max(own.way, key=lambda name: own.way[name].value)
    way = own.way[best]
    words = (
        f"from random maps to the annotated objects, {best} goes {way.value:.0f} % of the way "
        f"({_range(way, 0)}).{beside}"
    )
    if blind:
        return Weighed("care", f"{listed(blind, 2)} no better than random maps", words)
    if way.low < HALF:
        return Weighed("care", f"{max(way.value, 0):.0f} % of the way to the objects", words)
    return Weighed("good", f"{way.value:.0f} % of the way to the objects", words)


def _random_labels(own: Evidence) -> Weighed | None:
    if not own.trained:
        return None
    if not own.permuted:
        words = (
            f"whether {listed(own.trained)} learned what speaks for each class, or only where "
            "something stands, is not known: that takes a second training, on permuted labels."
        )
        return Weighed("care", "no check with permuted labels", words, known=False)
    return _each(
        own.permuted,
        (PERMUTED, float("inf")),
        "maps much as of permuted labels",
        "correlation with the maps of the same explainer, trained on permuted labels",
        "so they say where something stands, not of which class",
    )


def _random_weights(own: Evidence) -> Weighed:
    if not own.randomised:
        words = (
            "whether maps depend on what the classifier learned is not known: that takes maps of "
            "it with random weights (sanity among the metrics)."
        )
        return Weighed("care", "no check with random weights", words, known=False)
    return _each(
        own.randomised,
        RANDOMISED,
        "maps much as of random weights",
        "rank correlation with the maps of the classifier with random weights",
        "so they depend little on what it learned",
    )


def _training(own: Evidence) -> Weighed | None:
    if not own.trained:
        return None
    ends = {n: f"{n} from {first:.3g} to {last:.3g}" for n, (first, last, _) in own.losses.items()}
    rose = [
        ends[n] for n, (first, last, noise) in own.losses.items() if not last < first + 2 * noise
    ]
    if rose:
        words = f"the loss did not fall in training: {'; '.join(rose)}."
        return Weighed("bad", "a training did not end well", words)
    stayed = [ends[name] for name, (first, last, _) in own.losses.items() if last >= first]
    if stayed:
        words = (
            "the loss neither fell nor rose in training beyond its ups and downs: "
            f"{'; '.join(stayed)}. A head that starts from the classifier's gradients may have had "
            "little left to learn."
        )
        return Weighed("care", "a loss that did not fall", words)
    unknown = [name for name in own.trained if name not in own.losses]
    if unknown:
        words = (
            f"how the training of {listed(unknown)} ended is not known: it has no losses, or one "
            "alone."
        )
        return Weighed("care", "training not known", words, known=False)
    return Weighed("good", "losses fell", f"the loss fell in training: {'; '.join(ends.values())}.")


def _each_class(own: Evidence) -> Weighed | None:
    if not own.trained:
        return None
    weak = {name: classes for name, classes in own.weak.items() if classes}
    if weak:
        which = "; ".join(f"{name} on {listed(classes)}" for name, classes in weak.items())
        words = (
            "on some classes maps keep far less of the confidence than on the others, and than "
            f"another explainer's do: {which}."
        )
        return Weighed("care", "poor maps of some classes", words)
    if not own.weak:
        words = (
            f"whether the maps of {listed(own.trained)} do for all classes is not known: that "
            f"takes three classes with {ENOUGH} images each."
        )
        return Weighed("care", "maps of each class not known", words, known=False)
    words = "on no class do maps keep far less of the confidence than on the others."
    return Weighed("good", "maps do for all classes", words)


def _maps_of_images(own: Evidence) -> Weighed:
    if not own.between_images:
        words = (
            "whether maps differ between images is not known: that takes shape among the metrics."
        )
        return Weighed("care", "likeness of maps not known", words, known=False)
    return _each(
        own.between_images,
        SAME_PLACE,
        "maps hardly differ between images",
        "mean correlation of the maps of two images",
        "so they mark much the same place whatever the image shows",
    )


def _maps_of_classes(own: Evidence) -> Weighed:
    if not own.between_classes:
        words = (
            "whether maps differ between classes is not known: that takes maps of more than one "
            "class (targets: top-2 under maps)."
        )
        return Weighed("care", "maps of one class only", words, known=False)
    return _each(
        own.between_classes,
        (SAME_CLASS, float("inf")),
        "maps hardly differ between classes",
        "mean correlation of the maps of two classes of an image",
        "so they do not tell what speaks for one class and not the other",
    )


REASONS = (
    Reason("The run", _run),
    Reason("Gates", _gates),
    Reason("Images", _images),
    Reason("Images of a class", _images_of_a_class),
    Reason("Accuracy", _accuracy),
    Reason("Preprocessing", _preprocessing),
    Reason("Discrimination", _discrimination),
    Reason("Better than random", _way),
    Reason("Permuted labels", _random_labels),
    Reason("Random weights", _random_weights),
    Reason("Training", _training),
    Reason("Each class", _each_class),
    Reason("Maps of different images", _maps_of_images),
    Reason("Maps of different classes", _maps_of_classes),
)


def _each(
    values: Mapping[str, float], levels: tuple[float, float], brief: str, what: str, so: str
) -> Weighed:
    """Weigh a likeness of each explainer: red where all are too high, amber where one is.

    Args:
        values: likeness by explainer; lower is better.
        levels: where it is amber, and where it is red if all explainers reach it.
        brief: what is wrong, in a few words.
        what: what the likeness is.
        so: what follows where it is high.
    """
    high = sorted(name for name, value in values.items() if value >= levels[0])
    ends = min(values.values()), max(values.values())
    span = f"{ends[0]:.2f}" if len(values) == 1 else f"{ends[0]:.2f} to {ends[1]:.2f}"
    if not high:
        return Weighed("good", f"not: {brief}", f"{what}: {_minus(span)}.")
    which = ", ".join(f"{name} {values[name]:.2f}" for name in high[:4])
    more = f" and {len(high) - 4} more" if len(high) > 4 else ""
    words = f"{what}: {_minus(which)}{more}, {so}."
    tone: Literal["care", "bad"] = "bad" if ends[0] >= levels[1] else "care"
    return Weighed(tone, brief, words)


def _range(interval: Interval, digits: int = 1) -> str:
    return _minus(f"{interval.low:.{digits}f} to {interval.high:.{digits}f}")


def _shares(shares: Mapping[str, float]) -> str:
    ranked = sorted(shares.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{name} keeps {_minus(f'{share:.0f}')} %" for name, share in ranked)


def _minus(text: str) -> str:
    """Write negative numbers with a minus sign, not a hyphen."""
    return text.replace(" -", " −") if text[:1] != "-" else "−" + text[1:].replace(" -", " −")
