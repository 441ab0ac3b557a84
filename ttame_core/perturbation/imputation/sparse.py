"""Imputation on other devices: the removed pixels of a batch as one sparse system.

A damped Jacobi step of (ρ − S) x = b is nothing but a blur. Images hundreds of pixels long and
less than a tenth as wide can miss 1e-3, since sums of float32 are rounded.
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

TOLERANCE = 1e-4  # of the last correction
RELAXATION = 1.25  # of a grid's Jacobi steps
FEW = 100  # unknowns that are solved directly
DAMPING = 1e-3  # of those, for an image of which nothing is left

BLUR = (0.25, 0.5, 0.25)

with warnings.catch_warnings():  # torch says once in a process that sparse matrices are young
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()


def impute_together(images: Tensor, removed: Tensor) -> Tensor:
    """Impute the removed pixels of a batch by one sparse system, in PyTorch."""
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
    """Solve (1 − J) x = residual, J being the Jacobi step, which is symmetric under ρ."""
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
    """One V-cycle from 0: a Jacobi step before and one after what the coarser grid adds."""
    grid = grids[0]
    if grid.solver is not None:
        return grid.solver @ residual
    w = RELAXATION
    left = torch.addmm(residual, grid.jacobi, residual, beta=1 - w, alpha=w, out=grid.left)
    restricted = left if grid.overhang is None else left * grid.overhang
    coarse = _product(grid.down, restricted, grids[1].spare).mul_(grids[1].inverse)
    left.add_(residual)  # from here on `spare`, where the residual may lie, is free
    added = _product(grid.up, _cycle(grids[1:], coarse), grid.spare)
    return left.addmm_(grid.jacobi, added, beta=w, alpha=w).add_(added, alpha=1 - w)


def _product(matrix: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Return matrix @ x in memory that is there: PyTorch would fill new memory with zeros first."""
    return torch.addmm(out, matrix, x, beta=0, out=out)


@dataclass
class _Grid:
    """The n unknown cells of one resolution, of all images; row n of all that follows is 0.

    cells: their image, row and column, within a frame one cell wide. framed: shape of the images
    with it. places: (n,) int64, in the flattened framed images. near: (n, 9) int64, where the cells
    in and around each lie in them. numbers: of each place its unknown, n where there is none.
    weight: (n + 1, 1) ρ. inverse: (n + 1, 1) 1 / (ρ + μ). jacobi: (n + 1, n + 1) S / (ρ + μ).
    left, spare: (n + 1, 3), to work in. down: from these unknowns to the coarser ones. up:
    back, divided by ρ + μ. overhang: (n + 1, 1), where a side is odd: what makes up for a coarser
    cell that sticks out of the image. solver: of the coarsest grid, (1 + DAMPING − J)⁻¹.
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
        """The inner product under ρ."""
        return torch.dot(a.flatten() * self.weight_of_columns, b.flatten())

    def counts(self) -> Tensor:
        """How many of the unknowns lie in each cell of twice the side, within a frame."""
        count, height, width = self.framed
        height, width = ((side - 3 >> 1) + 3 for side in (height, width))
        image, y, x = self.cells
        parents = (image * height + (y + 1 >> 1)) * width + (x + 1 >> 1)
        counts = torch.zeros(count * height * width, dtype=torch.int32, device=parents.device)
        counts.index_add_(0, parents, torch.ones_like(parents, dtype=torch.int32))
        return counts.view(count, height, width)


def _grids(finest: _Grid) -> list[_Grid]:
    """From the finest to the coarsest."""
    grids = [finest]
    while (n := len(grids[-1].places)) > FEW and max(grids[-1].framed[1:]) > 3:
        grids.append(_grid(grids[-1].counts() >= 2, grids[-1]))
    coarsest = grids[-1]
    equations = (1 + DAMPING) * torch.eye(n + 1, device=coarsest.weight.device)
    coarsest.solver = torch.linalg.inv(equations - coarsest.jacobi.to_dense())
    return grids


def _grid(unknown: Tensor, finer: _Grid | None = None) -> _Grid:
    """The grid of the unknown cells (B, h + 2, w + 2); joined to the finer one where there is one.

    Of the frame nothing is unknown.
    """
    device = unknown.device
    count, height, row = unknown.shape
    image, y, x = cells = unknown.nonzero(as_tuple=True)
    n = len(image)
    places = (image * height + y) * row + x
    near = places[:, None] + (_offsets(3, row, device) - row - 1)
    # Two rows more, all frame: a coarser cell at the lower edge looks so far.
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
        if whole != [above - 2, beside - 2]:  # ρ as if the coarser cells' image were this one's
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
    """A CSR matrix (n + 1, width) of as many values in each row, but none in the last.

    columns: (n, k) int32. values: (n, k), or (k,) for all rows.
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
    """(4, 4): of the four coarser cells around a cell in an even or odd row and column."""
    line = torch.tensor(NEARER, device=device)
    return torch.kron(line, line)


@cache
def _inside(
    taps: tuple[float, ...], size: tuple[int, int], stride: int, device: torch.device
) -> Tensor:
    """How much of a kernel, one cell before each stride-th of (h, w), lies inside them."""
    kernel = torch.tensor(taps, device=device)[None, None]
    one, other = (
        F.conv1d(F.pad(torch.ones(1, 1, n, device=device), (1, 2)), kernel, stride=stride)[0, 0]
        for n in size
    )
    return torch.outer(one, other)
