"""T-TAME, whose maps come from a trained attention head."""

from __future__ import annotations

from ttame_core.explainers.trained import Trained


class TTame(Trained):
    """T-TAME (Ntrougkas, Gkalelis, Mezaris 2024, arXiv 2403.04523, section III-E).

    The target's map comes from the trained head, without any pass beyond the classifier's own. With
    `recipe: paper` and imported heads it is the class map before the sigmoid. Other heads show the
    attention map, with which they were trained to mask (docs/training.md). Maps are min–max
    normalised for each image.
    """

    name = "ttame"
    takes_given = True
