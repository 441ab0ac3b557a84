"""Linear imputation of removed pixels (ROAD, Rong et al. 2022, arXiv 2202.00449, section 4).

Each removed pixel is the weighted mean of its eight neighbours: 1/6 for those beside it, 1/12 for
those at its corners; only neighbours inside the image count. So the removed pixels of an image are
the unknowns of a sparse linear system, a graph Laplacian whose boundary values are the pixels that
are left. Up to the factor 4/3 the system is (ρ − S) x = b, where S blurs with the kernel
[1 2 1]ᵀ[1 2 1] / 16, and ρ is the sum of the kernel's weights that lie inside the image.

The system is solved by conjugate gradients, preconditioned with a multigrid cycle. Its five or six
iterations hardly depend on the size of the holes. Coarser grids solve (ρ + μ − S) x = b, where μ,
the hold, counts the known pixels in and around a cell: HOLD for each known pixel of the image,
which is the weight of the eight edges of a single known pixel, 3/4. The work is proportional to the
number of removed pixels.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

COLOURS = 3  # channels of an image that is solved at once


def impute(images: Tensor, removed: Tensor) -> Tensor:
    """Interpolate removed pixels linearly from those that are left.

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        removed: (B, H, W) bool.

    Returns:
        (B, C, H, W), within 1e-3 of the exact solution. An image without any pixel left becomes
        grey, 0.5.
    """
    channels = images.shape[1]
    if channels != COLOURS:  # each channel is a system of its own: three of them pass for colours
        threes = F.pad(images, (0, 0, 0, 0, 0, -channels % COLOURS)).unflatten(1, (-1, COLOURS))
        several = removed.repeat_interleave(threes.shape[1], dim=0)
        imputed = impute(threes.flatten(0, 1), several)
        return imputed.view(len(images), -1, *images.shape[2:])[:, :channels]
    if images.device.type == "cpu":
        from ttame_core.perturbation.imputation.compiled import (
            impute_each as solve,  # Numba loads slowly
        )
    else:
        from ttame_core.perturbation.imputation.sparse import impute_together as solve
    return solve(images, removed)
