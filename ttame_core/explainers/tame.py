"""TAME (Ntrougkas, Gkalelis, Mezaris, ISM 2022, arXiv 2301.07407), T-TAME's predecessor."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from ttame_core.backbones import Tap
from ttame_core.explainers.base import NotApplicable
from ttame_core.explainers.trained import PUBLISHED_LOSS, Trained


class Tame(Trained):
    """TAME (Ntrougkas, Gkalelis, Mezaris 2022, ISM, section III).

    The map is the class map of a head that was trained with TAME's loss, for convolutional
    networks. T-TAME has the same attention mechanism and loss. Images are masked before
    normalisation; the published taps, the last three stages, are the backbone's default. With
    `recipe: paper` the optimiser is the published one too: SGD, a one-cycle schedule to 1e-3, 8
    epochs (the authors' code has 1e-4 and 4 epochs for ResNet-50). Unlike in their code, biases
    learn at the same rate as weights, not at twice that rate; and area and variation are those of
    the map of each image's own class, as in the paper, not of the classes of the whole batch.
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
