"""Boxes around the contours of maps, as the evaluation code of Choe et al. draws them.

That code (github.com/clovaai/wsolevaluation; Choe et al. 2020, arXiv 2001.07437, and 2022,
arXiv 2007.04178) scales a map to the whole numbers from 0 to 255, and at each level t from 0 to 254
asks OpenCV for the contours of the pixels above t: one around each 8-connected component, and one
around each 4-connected hole in a component, which runs through the pixels that enclose the hole.
Asking OpenCV 255 times takes seconds for a detailed map. Here pixels join their components from the
highest value down, once for all levels, and a box is compared when its component changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ttame_core.perturbation.masking import min_max

LEVELS = 255  # pixels above t count, for t from 0 to 254
ROUNDING = 1e-4  # pixels that a corner in single precision may lie below a whole one


def contour_ious(maps: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compare the boxes around the contours of maps with annotated boxes, at all levels.

    All boxes have whole pixels as corners (annotated ones are rounded down), and the IoU counts the
    pixels at both ends of a side. A contour's box is compared with the annotated box that it
    overlaps most. As in the authors' code, a map with a single value has the box of the pixel in
    the upper left corner.

    Args:
        maps: (B, H, W) float of any range; each is min–max normalised.
        boxes: per map (N, 4), N ≥ 1, pixels x0, y0, x1, y1 of the map.

    Returns:
        Two (B, 255) float64 in [0, 1]: the IoU of the contour with the largest area, and that of
        the contour that fits best.
    """
    from ttame_core.metrics.contours.compiled import ious  # Numba loads slowly

    grey = (min_max(maps[:, None])[:, 0].nan_to_num(0) * LEVELS).to(torch.uint8).cpu().numpy()
    whole = [(corners.cpu() + ROUNDING).int().numpy() for corners in boxes]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        both = np.array(list(threads.map(ious, grey, whole))).reshape(len(grey), 2, LEVELS)
    largest, best = torch.from_numpy(both).unbind(dim=1)
    return largest, best
