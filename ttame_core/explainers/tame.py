"""TAME (Ntrougkas, Gkalelis, Mezaris, ISM 2022, arXiv 2301.07407), T-TAME's predecessor."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from ttame_core.backbones import Tap
from ttame_core.explainers.base import NotApplicable
from ttame_core.explainers.trained import PUBLISHED_LOSS, Trained


class Tame(Trained):
    """TAME (Ntrougkas, Gkalelis, Mezaris 2022, ISM, section III).

    The class map of a head that was trained with TAME's loss, for convolutional networks: the
    attention mechanism and loss that T-TAME kept. Images are masked before normalisation; the
    published taps, the last three stages, are the backbone's default. With `recipe: paper` the
    optimiser is the published one too: SGD, a one-cycle schedule to 1e-3, 8 epochs (the authors'
    code: 1e-4 and 4 epochs for ResNet-50). Not taken over from their code: biases learn at the same
    rate as weights, not twice it; and area and variation are of the map of each image's own class,
    as the paper has them, not of the classes of the whole batch.
    """

    name = "tame"
    fixed = PUBLISHED_LOSS
    applies_to = "convolutional networks"

    @override
    def find_taps(self) -> Sequence[Tap]:
        taps = super().find_taps()
        if other := [tap.name for tap in taps if tap.layout != "NCHW"]:
            raise NotApplicable(
                f"TAME is for convolutional networks, and {other[-1]} of {self.backbone.name} is "
                "no convolution's output: use ttame"
            )
        return taps
