"""Linear imputation of removed pixels (ROAD, Rong et al. 2022, arXiv 2202.00449, section 4).

Each removed pixel is the weighted mean of its eight neighbours: 1/6 for those beside it, 1/12 for
those at its corners; only those inside the image count. So the removed pixels of an image are the
unknowns of a sparse system, a graph Laplacian whose boundary values are the pixels that are left.
Up to the factor 4/3 it is (ρ − S) x = b, where S blurs with [1 2 1]ᵀ[1 2 1] / 16 and ρ is what of
that kernel lies inside the image.

It is solved by conjugate gradients, preconditioned with a multigrid cycle: the five or six
iterations hardly depend on how large the holes are. Coarser grids solve the same equation,
(ρ + μ − S) x = b, where μ is the hold of the known pixels in and around a cell: HOLD for each known
one of the image, since 3/4 is what the eight edges of a lone one weigh. The work is in proportion
to the number of removed pixels.
"""

from __future__ import annotations

from torch import Tensor


def impute(images: Tensor, removed: Tensor) -> Tensor:
    """Images whose removed pixels are interpolated linearly from those that are left.

    images: (B, 3, H, W) float32 in [0, 1]. removed: (B, H, W) bool. Returns (B, 3, H, W), within
    1e-3 of the exact solution. An image of which nothing is left becomes grey, 0.5.
    """
    if images.device.type == "cpu":
        from ttame_core.perturbation.imputation.compiled import (
            impute_each as solve,  # Numba loads slowly
        )
    else:
        from ttame_core.perturbation.imputation.sparse import impute_together as solve
    return solve(images, removed)
