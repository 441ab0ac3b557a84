"""The first pass of a training step: the logits of whole images, and the features a head reads.

The classifier is frozen, so this pass gives the same for an image in every epoch. Where a training
has several epochs on the CPU, it is made once for each image, and its results are kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.data.loader import Batch
from ttame_core.errors import UserError

if TYPE_CHECKING:
    from ttame_core.explainers.trained import Trained


class FirstPass(NamedTuple):
    """B whole images, and what the classifier makes of them.

    Attributes:
        images: (B, C, H, W) float32 in [0, 1].
        logits: (B, K).
        features: (B, C, h, w) for each tap that the head reads.
    """

    images: Tensor
    logits: Tensor
    features: list[Tensor]


@torch.no_grad()
def first_pass(explainer: Trained, images: Tensor) -> FirstPass:
    """Run the first pass over images (B, C, H, W) in [0, 1], on the classifier's device."""
    backbone = explainer.backbone
    with backbone.autocast():
        logits, features = backbone.features(backbone.normalise(images))
        return FirstPass(images, logits, explainer.read(images, features))


class KeptPasses:
    """The first passes of all training images, in a temporary file that is mapped into memory.

    Features are kept in half precision. The file has no name, so nothing of it is left however the
    process ends.

    Args:
        places: number of each image's record, by the image's key.
        records: a record for each image, with its logits and its features.
        shapes: (h, w, C) of the features of each tap.
    """

    def __init__(
        self, places: dict[str, int], records: np.ndarray, shapes: Sequence[tuple[int, ...]]
    ) -> None:
        self._places, self._records, self._shapes = places, records, shapes

    def of(self, batch: Batch) -> FirstPass:
        """Return the first pass over a batch, with features in float32."""
        records = self._records[[self._places[key] for key in batch.keys]]
        kept = torch.from_numpy(np.ascontiguousarray(records["features"])).float()
        parts = kept.split([int(np.prod(shape)) for shape in self._shapes], dim=1)
        shaped = zip(parts, self._shapes, strict=True)
        features = [part.view(-1, *shape).permute(0, 3, 1, 2) for part, shape in shaped]
        logits = torch.from_numpy(np.ascontiguousarray(records["logits"]))
        return FirstPass(batch.float_images(), logits, features)


def keep_passes(
    explainer: Trained,
    batches: Iterable[Batch],
    images: int,
    gib: float,
    progress: Callable[[int], None] = lambda done: None,
) -> KeptPasses | None:
    """Run the first pass over all training images, and keep the results.

    Args:
        explainer: explainer whose head is trained, on a classifier on the CPU.
        batches: batches with every training image once, the same in every run.
        images: number of training images.
        gib: GiB of disk that may be taken.
        progress: called with the number of images that are done.

    Returns:
        The results; None where they do not fit, or where half precision cannot hold a feature.

    Raises:
        UserError: the disk is full.
    """
    places: dict[str, int] = {}
    with tempfile.TemporaryFile() as file:
        for batch in batches:
            found = first_pass(explainer, batch.float_images())
            if not fits(found, images, gib):
                return None
            flat = [f.permute(0, 2, 3, 1).flatten(1).half() for f in found.features]
            features = torch.cat(flat, dim=1).numpy()
            if not np.isfinite(features).all():
                return None
            logits = found.logits.float().numpy()
            kinds: Any = [
                ("logits", "f4", logits.shape[1:]),
                ("features", "f2", features.shape[1:]),
            ]
            records = np.empty(len(features), kinds)
            records["logits"], records["features"] = logits, features
            try:
                file.write(records.tobytes())
                file.flush()
            except OSError as error:
                raise UserError(
                    f"the classifier's outputs for {images:,} training images cannot be kept in "
                    f"{tempfile.gettempdir()} ({error.strerror}): make room there, name another "
                    "folder by the environment variable TMPDIR, or set training.keep_gib: 0"
                ) from error
            places |= {key: len(places) + i for i, key in enumerate(batch.keys)}
            progress(len(places))
        shapes = [(f.shape[2], f.shape[3], f.shape[1]) for f in found.features]
        return KeptPasses(places, np.memmap(file, records.dtype, "r"), shapes)


def is_repeated(backbone: Backbone, settings: spec.Training, processes: int) -> bool:
    """Say whether a training keeps its first passes, if they fit.

    A GPU makes a pass about as fast as a disk is read. Of several processes each would need all.

    Args:
        backbone: classifier whose head is trained.
        settings: section `training` of a spec, with the number of epochs.
        processes: number of processes that train together.
    """
    alone_on_cpu = processes == 1 and backbone.device.type == "cpu"
    return alone_on_cpu and settings.epochs > 1 and settings.keep_gib > 0


def fits(found: FirstPass, images: int, gib: float) -> bool:
    """Say whether the results of so many images, of which some are given, fit into `gib` GiB."""
    own = 4 * found.logits[0].numel() + sum(2 * f[0].numel() for f in found.features)
    return images * own <= gib * 2**30
