"""The classes of backbones, matched with those of the data set, and the files that keep them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.data.labels import number_of
from ttame_core.data.matching import Classifier, DataClasses, Match, match_classes
from ttame_core.lake import classes_file
from ttame_core.lake.schemas import CLASSES
from ttame_core.stages.provenance import Provenance

SENTENCE = "ttame.matched"  # metadata of the file: what was matched and how, in a sentence


def match_of(provenance: Provenance, settings: spec.Backbone, backbone: Backbone) -> Match:
    """Match the classes of an audit's data set with those of a loaded backbone.

    Raises:
        UserError: not one class can be matched, or `labels` names a class that does not exist.
    """
    classifier = Classifier(backbone.name, backbone.num_classes, backbone.classes)
    return match_section(provenance.audit.dataset, provenance.data_classes, settings, classifier)


def match_section(
    dataset: spec.Dataset, data: DataClasses, settings: spec.Backbone, classifier: Classifier
) -> Match:
    """Match the classes of a data set and of a classifier, by their sections of a spec.

    Raises:
        UserError: not one class can be matched, or `labels` names a class that does not exist.
    """
    labels = {**dataset.labels, **settings.labels}
    return match_classes(data, classifier, labels, fit=settings.fit is not None)


def write_match(provenance: Provenance, backbone: str, match: Match) -> None:
    """Write a backbone's classes and how they were matched, where that is not there yet."""
    rows = class_rows(match)
    path = classes_file(provenance.dataset, backbone)
    made_from = {"rows": rows, "sentence": match.sentence}
    if not provenance.lake.is_current(path, made_from):
        told = {SENTENCE: match.sentence}
        provenance.lake.write_parquet(path, rows, CLASSES, made_from, **told)


def class_rows(match: Match) -> list[dict[str, Any]]:
    """Return rows (schema CLASSES): one per class of the classifier, then the unmatched classes."""
    rows = []
    matched: dict[int | None, list[int]] = defaultdict(list)
    for label in match.data.present:
        matched[match.classes[label]].append(label)
    for number, entry in enumerate(match.theirs.entries):
        labels = matched[number]
        rows.append(
            {
                "number": number,
                "name": entry.name,
                "wnid": entry.wnid or None,
                "definition": entry.definition or None,
                "classes": [match.data.names[label] for label in labels],
                "labels": labels,
                "rule": match.rules[labels[0]] if labels else None,
            }
        )
    for label in matched[None]:
        own = match.data.names[label]
        name = own if number_of(own) is None else f"class {own}"
        nothing = dict.fromkeys(("number", "wnid", "definition", "rule"))
        rows.append({**nothing, "name": name, "classes": [own], "labels": [label]})
    return rows


def read_names(provenance: Provenance, backbone: str) -> dict[int, str]:
    """Return the names of a backbone's classes, by number; none where they were not written yet."""
    path = classes_file(provenance.dataset, backbone)
    if not provenance.lake.exists(path):
        return {}
    rows = provenance.lake.read_table(path, ["number", "name"]).to_pylist()
    return {row["number"]: row["name"] for row in rows if row["number"] is not None}


def read_sentences(provenance: Provenance) -> dict[str, str]:
    """Return for each backbone the sentence on how classes were matched, where it was written."""
    names = [backbone.name for backbone in provenance.audit.backbones]
    files = [classes_file(provenance.dataset, name) for name in names]
    found = provenance.lake.metadata_of(files)
    return {
        name: about[SENTENCE] for name, about in zip(names, found, strict=True) if SENTENCE in about
    }
