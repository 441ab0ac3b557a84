"""Imputation on other devices: the removed pixels of a batch as one sparse system.

A damped Jacobi step of (ρ − S) x = b is a blur. For images that are hundreds of pixels long and
less than a tenth as wide, rounded sums of float32 can leave an error above 1e-3.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ttame_core.perturbation.imputation.equations import (
    BILINEAR,
    GREY,
    HOLD,
    MOST_ITERATIONS,
    NEARER,
)

TOLERANCE = 1e-4  # size of the last correction
RELAXATION = 1.25  # factor of Jacobi steps
FEW = 100  # with fewer unknowns, a system is solved directly
DAMPING = 1e-3  # added to the direct system's diagonal, which is singular if no pixel is left

BLUR = (0.25, 0.5, 0.25)

with warnings.catch_warnings():  # torch warns once that sparse matrices are in beta
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()


def impute_together(images: Tensor, removed: Tensor) -> Tensor:
    """Impute all images of a batch by one sparse system, in PyTorch.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        removed: (B, H, W) bool.
    """
    finest = _grid(F.pad(removed, (1, 1, 1, 1)))
    pixels = images.new_zeros(*finest.framed, 3)
    torch.sub(images.permute(0, 2, 3, 1), GREY, out=pixels[:, 1:-1, 1:-1])
    pixels = pixels.flatten(0, 2).index_fill_(0, finest.places, 0)
    shares = finest.inverse[:-1] * _kernel(BLUR, images.device)
    given = _sparse(finest.near.int(), shares, len(pixels)) @ pixels
    solution = _conjugate_gradients(_grids(finest), given)
    imputed = images.clone(memory_format=torch.contiguous_format)
    image, y, x = finest.cells
    imputed.permute(0, 2, 3, 1)[image, y - 1, x - 1] = solution[:-1] + GREY
    return imputed


def _conjugate_gradients(grids: list[_Grid], residual: Tensor) -> Tensor:
    """Solve (1 − J) x = residual, where J is the Jacobi step, which is symmetric under ρ."""
    finest = grids[0]
    x = torch.zeros_like(residual)
    direction, change, energy = torch.zeros_like(x), torch.empty_like(x), torch.ones_like(x[0, 0])
    for _ in range(MOST_ITERATIONS):
        correction = _cycle(grids, residual)
        before, energy = energy, finest.inner(residual, correction)
        torch.addcmul(correction, direction, energy / before, out=direction)
        torch.addmm(direction, finest.jacobi, direction, alpha=-1, out=change)
        curvature = finest.inner(direction, change)
        step = torch.where(curvature > 0, energy / curvature, 0)
        x.addcmul_(direction, step)
        low, high = correction.aminmax()
        if torch.maximum(high, -low) < TOLERANCE:
            break
        residual.addcmul_(change, step, value=-1)
    return x


def _cycle(grids: list[_Grid], residual: Tensor) -> Tensor:
    """Run a V-cycle from 0, with a Jacobi step before and one after the coarser grid."""
    grid = grids[0]
    if grid.solver is not None:
        return grid.solver @ residual
    w = RELAXATION
    left = torch.addmm(residual, grid.jacobi, residual, beta=1 - w, alpha=w, out=grid.left)
    restricted = left if grid.overhang is None else left * grid.overhang
    coarse = _product(grid.down, restricted, grids[1].spare).mul_(grids[1].inverse)
    left.add_(residual)  # from here on `spare`, which may hold the residual, is free
    added = _product(grid.up, _cycle(grids[1:], coarse), grid.spare)
    return left.addmm_(grid.jacobi, added, beta=w, alpha=w).add_(added, alpha=1 - w)


def _product(matrix: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Write matrix @ x into `out` and return it: new memory would be filled with zeros first."""
    return torch.addmm(out, matrix, x, beta=0, out=out)


@dataclass
class _Grid:
    """The n unknown cells of all images at one resolution.

    The images have a frame one cell wide, in which nothing is unknown. Row n of all arrays with
    n + 1 rows is 0 and stands for cells that are not unknown.

    Attributes:
        cells: image, row and column of each unknown cell, in framed images.
        framed: shape of the framed images.
        places: (n,) int64, positions of the unknown cells in the flattened framed images.
        near: (n, 9) int64, positions of each cell and its neighbours.
        numbers: number of the unknown at each position, n where there is none.
        weight: (n + 1, 1), ρ.
        inverse: (n + 1, 1), 1 / (ρ + μ).
        jacobi: (n + 1, n + 1), S / (ρ + μ).
        left: (n + 1, 3), memory for a solution.
        spare: (n + 1, 3), memory for a residual.
        down: matrix from the next finer grid's unknowns to these.
        up: matrix from these unknowns to the next finer grid's, divided by ρ + μ.
        overhang: (n + 1, 1), correction of `up` where a side of the finer image is odd, so that a
            coarser cell sticks out of the image.
        solver: (1 + DAMPING − J)⁻¹ of the coarsest grid.
    """

    cells: tuple[Tensor, Tensor, Tensor]
    framed: tuple[int, int, int]
    places: Tensor
    near: Tensor
    numbers: Tensor
    weight: Tensor
    inverse: Tensor
    jacobi: Tensor
    left: Tensor
    spare: Tensor
    down: Tensor | None = None
    up: Tensor | None = None
    overhang: Tensor | None = None
    solver: Tensor | None = None

    @cached_property
    def weight_of_columns(self) -> Tensor:
        return self.weight.expand(-1, 3).flatten()

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum of a · b over all pixels, each pixel weighted by `weight_of_columns`."""
        return torch.dot(a.flatten() * self.weight_of_columns, b.flatten())

    def counts(self) -> Tensor:
        """Count the unknowns in each cell of the next coarser grid, with its frame."""
        count, height, width = self.framed
        height, width = ((side - 3 >> 1) + 3 for side in (height, width))
        image, y, x = self.cells
        parents = (image * height + (y + 1 >> 1)) * width + (x + 1 >> 1)
        counts = torch.zeros(count * height * width, dtype=torch.int32, device=parents.device)
        counts.index_add_(0, parents, torch.ones_like(parents, dtype=torch.int32))
        return counts.view(count, height, width)


def _grids(finest: _Grid) -> list[_Grid]:
    """Return the grids from the finest to the coarsest."""
    grids = [finest]
    while (n := len(grids[-1].places)) > FEW and max(grids[-1].framed[1:]) > 3:
        grids.append(_grid(grids[-1].counts() >= 2, grids[-1]))
    coarsest = grids[-1]
    equations = (1 + DAMPING) * torch.eye(n + 1, device=coarsest.weight.device)
    coarsest.solver = torch.linalg.inv(equations - coarsest.jacobi.to_dense())
    return grids


def _grid(unknown: Tensor, finer: _Grid | None = None) -> _Grid:
    """Make the grid of unknown cells (B, h + 2, w + 2), with matrices from and to a finer grid."""
    device = unknown.device
    count, height, row = unknown.shape
    image, y, x = cells = unknown.nonzero(as_tuple=True)
    n = len(image)
    places = (image * height + y) * row + x
    near = places[:, None] + (_offsets(3, row, device) - row - 1)
    # Two more rows of frame, because the children of a coarser cell at the lower edge lie there.
    numbers = torch.full(((count * height + 2) * row,), n, dtype=torch.int32, device=device)
    numbers[places] = torch.arange(n, dtype=torch.int32, device=device)
    inside = _inside(BLUR, (height - 2, row - 2), 1, device)
    weight = inside[y - 1, x - 1]
    diagonal = weight
    if finer is not None:
        _, above, beside = finer.framed
        corners = (image * above + 2 * (y - 1)) * beside + 2 * (x - 1)
        children = torch.take(finer.numbers, corners[:, None] + _offsets(4, beside, device))
        finer.down = _sparse(children, _kernel(BILINEAR, device), len(finer.weight))
        fully = _inside(BILINEAR, (above - 2, beside - 2), 2, device)[y - 1, x - 1]
        known = fully - (finer.down @ finer.inverse.mul(finer.weight))[:-1, 0]
        diagonal = weight + HOLD * known.clamp_(min=0)
    inverse = 1 / diagonal
    jacobi = _sparse(torch.take(numbers, near), inverse[:, None] * _kernel(BLUR, device), n + 1)
    if finer is not None:
        image, y, x = finer.cells
        corners = (image * height + (y >> 1)) * row + (x >> 1)
        parents = torch.take(numbers, corners[:, None] + _offsets(2, row, device))
        shares = _shares(device).index_select(0, (y & 1) * 2 + (x & 1)) * finer.inverse[:-1]
        whole = [side - 2 + (side & 1 if side > 3 else 0) for side in (above, beside)]
        if whole != [above - 2, beside - 2]:  # ρ as if the image were as large as the coarser one
            more = _inside(BLUR, tuple(whole), 1, device)[y - 1, x - 1, None] - finer.weight[:-1]
            finer.overhang = F.pad(1 / (1 + more * finer.inverse[:-1]), (0, 0, 0, 1))
            shares *= finer.overhang[:-1]
        finer.up = _sparse(parents, shares, n + 1)
    weight, inverse = (F.pad(v, (0, 1))[:, None] for v in (weight, inverse))
    scratch = weight.new_zeros(2, n + 1, 3)
    return _Grid(
        cells, (count, height, row), places, near, numbers, weight, inverse, jacobi, *scratch
    )


def _sparse(columns: Tensor, values: Tensor, width: int) -> Tensor:
    """Make a CSR matrix (n + 1, width) with k values in each row but the last, which is empty.

    Args:
        columns: (n, k) int32, columns of the values.
        values: (n, k), or (k,) for all rows.
        width: number of columns.
    """
    n, k = columns.shape
    starts = torch.arange(n + 2, dtype=torch.int32, device=columns.device).clamp_(max=n) * k
    values = values.expand(n, k).flatten()
    shape = (n + 1, width)
    return torch.sparse_csr_tensor(starts, columns.flatten(), values, shape, check_invariants=False)


@cache
def _kernel(taps: tuple[float, ...], device: torch.device) -> Tensor:
    line = torch.tensor(taps, device=device)
    return torch.outer(line, line).flatten()


@cache
def _offsets(side: int, row: int, device: torch.device) -> Tensor:
    line = torch.arange(side, device=device)
    return (line[:, None] * row + line).flatten()


@cache
def _shares(device: torch.device) -> Tensor:
    """Return (4, 4), weights of the coarser cells around a cell, by parity of row and column."""
    line = torch.tensor(NEARER, device=device)
    return torch.kron(line, line)


@cache
def _inside(
    taps: tuple[float, ...], size: tuple[int, int], stride: int, device: torch.device
) -> Tensor:
    """Return the sum of a kernel's weights that lie inside an image, for each place of the kernel.

    The kernel starts one cell before every stride-th row and column of the image.

    Args:
        taps: weights of the kernel along one side.
        size: (h, w) of the image.
        stride: distance of the kernel's places.
        device: device of the result.
    """
    kernel = torch.tensor(taps, device=device)[None, None]
    one, other = (
        F.conv1d(F.pad(torch.ones(1, 1, n, device=device), (1, 2)), kernel, stride=stride)[0, 0]
        for n in size
    )
    return torch.outer(one, other)
