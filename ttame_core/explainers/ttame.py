"""The trained attention head."""

from __future__ import annotations

from ttame_core.explainers.trained import Trained


class TTame(Trained):
    """T-TAME (Ntrougkas, Gkalelis, Mezaris 2024, arXiv 2403.04523, section III-E).

    The target's map from the trained head: no pass beyond the classifier's own. The class map
    before the sigmoid, min–max normalised per image: so it is with `recipe: paper` and imported
    heads; others show the attention map, which is what they were trained to mask with
    (docs/training.md).
    """

    name = "ttame"
    takes_given = True
