"""Whole pictures changed in light, colour, sharpness or compression: do they become one class?

What is everywhere in a picture, such as traces of JPEG, no map can show. So pictures that the
classifier takes for other classes are changed, and asked for again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ttame_core.backbones import Backbone
from ttame_core.errors import UserError
from ttame_core.metrics.base import Row
from ttame_core.perturbation.whole import CHANGES

PICTURES = 100  # that are changed, at most
WHOLE = "whole"  # the aspect of rows of pictures that were changed as a whole


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


def _answers(backbone: Backbone, images: Tensor, batch_size: int) -> Tensor:
    """Return the probabilities (N, K) of all classes for images (N, C, H, W) in [0, 1]."""
    parts = images.split(batch_size)
    logits = [backbone(backbone.normalise(part.to(backbone.device))) for part in parts]
    answers = backbone.probabilities(torch.cat(logits)).cpu()
    if not answers.isfinite().all():
        raise UserError(
            f"backbone {backbone.name} gives logits that are not finite for changed images: check "
            "its weights and its layers"
        )
    return answers
