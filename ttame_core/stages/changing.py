"""Whole pictures changed, and asked for again.

What is everywhere in a picture, such as traces of JPEG, no map can show. So pictures that the
classifier takes for other classes are changed in light, colour, sharpness or compression: do they
become one class? And labelled pictures are normalised in the other usual ways: are they recognised
better than with the preprocessing that the classifier is given?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ttame_core.backbones import Backbone, Preprocessing
from ttame_core.errors import UserError
from ttame_core.metrics.base import Row
from ttame_core.perturbation.whole import CHANGES

PICTURES = 100  # that are changed, at most
WHOLE = "whole"  # the aspect of rows of pictures that were changed as a whole
LABELLED = 200  # pictures that are normalised otherwise, at most
NORMALISED = "normalised"  # the aspect of their rows


@torch.inference_mode()
def change(images: Mapping[str, Tensor], backbone: Backbone, batch_size: int) -> Iterator[Row]:
    """Yield the rows (schema PASTED) of the class whose probability each change raises most.

    That is the mean over the pictures that the classifier takes for other classes, each of which
    has a row.

    Args:
        images: pictures as the classifier sees them, (C, H, W) in [0, 1], by their keys; none
            where nothing was explained.
        backbone: the classifier, on its device.
        batch_size: number of images in a forward pass.
    """
    if not images:
        return
    keys, stacked = list(images), torch.stack(list(images.values()))
    before = _answers(backbone, stacked, batch_size)
    others = torch.ones_like(before, dtype=torch.bool)
    others.scatter_(1, before.argmax(dim=1, keepdim=True), False)
    for name, whole in CHANGES.items():
        if whole.coloured and stacked.shape[1] != 3:
            continue
        after = _answers(backbone, whole.make(stacked), batch_size)
        rise = ((after - before) * others).sum(dim=0) / others.sum(dim=0)
        target = int(rise.nan_to_num(-torch.inf).argmax())  # there may be no others of a class
        for number in others[:, target].nonzero()[:, 0].tolist():
            yield {
                "target": target,
                "aspect": WHOLE,
                "source": name,
                "maps": "",
                "key": keys[number],
                "before": float(before[number, target]),
                "after": float(after[number, target]),
            }


@torch.inference_mode()
def normalise_otherwise(
    images: Mapping[str, Tensor], labels: Mapping[str, int], backbone: Backbone, batch_size: int
) -> Iterator[Row]:
    """Yield a row (schema PASTED) of the label for each labelled picture and way to normalise.

    Args:
        images: pictures as the classifier sees them, (C, H, W) in [0, 1], by their keys.
        labels: labels of some of them, as numbers of the classifier's classes.
        backbone: the classifier, on its device.
        batch_size: number of images in a forward pass.
    """
    keys = [key for key in images if key in labels]
    if not keys:
        return
    stacked = torch.stack([images[key] for key in keys])
    own = torch.tensor([labels[key] for key in keys])[:, None]

    def of_labels(preprocessing: Preprocessing) -> tuple[list[float], list[bool]]:
        """Return the probability of each label, and whether it is the answer."""
        answers = _answers(backbone, stacked, batch_size, preprocessing)
        right = answers.argmax(dim=1, keepdim=True) == own
        return answers.gather(1, own)[:, 0].tolist(), right[:, 0].tolist()

    before, right_before = of_labels(backbone.preprocessing)
    for name, other in backbone.preprocessing.others().items():
        for number, (after, right_after) in enumerate(zip(*of_labels(other), strict=True)):
            yield {
                "target": labels[keys[number]],
                "aspect": NORMALISED,
                "source": name,
                "maps": "",
                "key": keys[number],
                "before": before[number],
                "after": after,
                "right_before": right_before[number],
                "right_after": right_after,
            }


def _answers(
    backbone: Backbone,
    images: Tensor,
    batch_size: int,
    preprocessing: Preprocessing | None = None,
) -> Tensor:
    """Return the probabilities (N, K) of all classes for images (N, C, H, W) in [0, 1].

    Args:
        backbone: the classifier.
        images: the images.
        batch_size: number of images in a forward pass.
        preprocessing: what normalises them; None for the classifier's own.
    """
    normalise = (preprocessing or backbone.preprocessing).normalise
    parts = images.split(batch_size)
    logits = [backbone(normalise(part.to(backbone.device))) for part in parts]
    answers = backbone.probabilities(torch.cat(logits)).cpu()
    if not answers.isfinite().all():
        raise UserError(
            f"backbone {backbone.name} gives logits that are not finite for changed images: check "
            "its weights and its layers"
        )
    return answers
