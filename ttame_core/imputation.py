"""Linear imputation of removed pixels (ROAD, Rong et al. 2022, arXiv 2202.00449, section 4).

Each removed pixel is the weighted mean of its eight neighbours: 1/6 for those beside it, 1/12 for
those at its corners; only those inside the image count. So the removed pixels of a batch are the
unknowns of one sparse system, a graph Laplacian whose boundary values are the pixels that are left.
It is solved by conjugate gradients, preconditioned with a multigrid cycle: the four to six
iterations hardly depend on how large or how scattered the holes are, and all work is in proportion
to the number of removed pixels.

Up to the factor 4/3 the system is (ρ − S) x = b, where S blurs with [1 2 1]ᵀ[1 2 1] / 16 and ρ is
what of that kernel lies inside the image. A damped Jacobi step is therefore nothing but a blur.
Coarser grids solve the same equation, (ρ + μ − S) x = b, where μ is the hold of the known pixels
in and around a cell.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-3  # of the last correction; what it leaves is a fifth of it, or 3/4 at worst
STRICT = 1e-4  # where it can leave more: in small images, and where coarser grids stick out
SMALL, EVEN = 64 * 64, 16  # pixels; what the sides of others are multiples of
MOST_ITERATIONS = 50
GREY = 0.5  # where the iteration starts
COLUMNS = 4  # the colours, and zeros: sparse products with four columns are the fastest
HOLD = 0.75  # μ for each known pixel; 3/4 is what the eight edges of a lone one weigh
COARSEST, SWEEPS = 2, 2  # side of the smallest grid, and Jacobi steps on the last one
SCATTERED = 1 / 6  # coarser cells per unknown, under which a grid is the last; 1/4 in large holes

BLUR = (0.25, 0.5, 0.25)
BILINEAR = (0.25, 0.75, 0.75, 0.25)  # what a cell gives to the finer cells in and beside it

with warnings.catch_warnings():  # torch says once in a process that sparse matrices are young
    warnings.simplefilter("ignore")
    torch.eye(1).to_sparse_csr()


def impute(images: Tensor, removed: Tensor) -> Tensor:
    """Images whose removed pixels are interpolated linearly from those that are left.

    images: (B, 3, H, W) float32 in [0, 1]. removed: (B, H, W) bool. Returns (B, 3, H, W), within
    1e-3 of the exact solution. An image of which nothing is left becomes grey, 0.5.
    """
    grids = _grids(removed)
    finest = grids[0]
    pixels = images.new_zeros(*finest.framed, COLUMNS)
    for channel, colour in enumerate(images.unbind(dim=1)):  # faster than all of them permuted
        torch.sub(colour, GREY, out=pixels[:, 1:-1, 1:-1, channel])
    pixels = pixels.flatten(0, 2).index_fill_(0, finest.places, 0)
    from_known = _sparse(
        finest.near, finest.inverse[:-1] * _kernel(BLUR, images.device), len(pixels)
    )
    solution = _conjugate_gradients(grids, from_known @ pixels)
    imputed = images.clone(memory_format=torch.contiguous_format)
    channels, height, width = images.shape[1:]
    image, y, x = finest.cells
    first = (image * channels * height + y) * width + x
    for channel in range(channels):
        place = first + channel * height * width
        imputed.view(-1).scatter_(0, place, solution[:-1, channel] + GREY)
    return imputed


def _conjugate_gradients(grids: list[_Grid], residual: Tensor) -> Tensor:
    """Solve (1 − J) x = residual, J being the Jacobi step, which is symmetric under ρ."""
    finest = grids[0]
    height, width = (side - 2 for side in finest.framed[1:])
    even = height % EVEN == width % EVEN == 0
    tolerance = TOLERANCE if even and height * width > SMALL else STRICT
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
        if torch.maximum(high, -low) < tolerance:
            break
        residual.addcmul_(change, step, value=-1)
    return x


def _cycle(grids: list[_Grid], residual: Tensor) -> Tensor:
    """One V-cycle from 0: a Jacobi step before and one after what the coarser grid adds."""
    grid = grids[0]
    if len(grids) == 1:
        x = residual
        for _ in range(SWEEPS):
            x = torch.addmm(residual, grid.jacobi, x)
        return x
    left = _product(grid.jacobi, residual, grid.left)
    coarse = _product(grid.down, left, grids[1].spare).mul_(grids[1].inverse)
    left.add_(residual)  # which may lie in `spare`, and is done with
    added = _product(grid.up, _cycle(grids[1:], coarse), grid.spare)
    return left.addmm_(grid.jacobi, added)


def _product(matrix: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """matrix @ x, in memory that is there: PyTorch would fill new memory with zeros first."""
    return torch.addmm(out, matrix, x, beta=0, out=out)


@dataclass
class _Grid:
    """The n unknown cells of one resolution, of all images; row n of all that follows is 0.

    cells: their image, row and column. framed: shape of the images within a frame one cell wide.
    places: (n,) int64, in the flattened framed images. near: (n, 9) int32, where the cells in and
    around each lie in them. numbers: of each place its unknown, n where there is none. weight:
    (n + 1, 1) ρ. inverse: (n + 1, 1) 1 / (ρ + μ). jacobi: (n + 1, n + 1) S / (ρ + μ).
    left, spare: (n + 1, COLUMNS), to work in. down: from these unknowns to the coarser ones. up:
    back, divided by ρ + μ.
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

    @cached_property
    def lacking(self) -> tuple[Tensor, Tensor]:
        """The unknowns at the edges of the images, and what ρ lacks of 1 there."""
        (edge,) = (self.weight[:, 0] < 1).nonzero(as_tuple=True)
        return edge, 1 - self.weight[edge]

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """The inner product under ρ."""
        edge, lacking = self.lacking
        product = torch.dot(a.flatten(), b.flatten())
        return product - torch.dot((a[edge] * lacking).flatten(), b[edge].flatten())


def _grids(removed: Tensor) -> list[_Grid]:
    """From the finest to the coarsest."""
    grids = [_grid(removed)]
    while max(removed.shape[1:]) > COARSEST:
        removed = _mostly_unknown(grids[-1], removed.shape)
        if removed.sum() <= SCATTERED * len(grids[-1].places):
            break
        grids.append(_grid(removed, grids[-1]))
    return grids


def _mostly_unknown(grid: _Grid, size: torch.Size) -> Tensor:
    """Which cells of twice the side are unknown: at least two of their four parts are."""
    image, y, x = grid.cells
    height, width = -(-size[1] // 2), -(-size[2] // 2)
    parents = (image * height + (y >> 1)) * width + (x >> 1)
    parts = torch.zeros(size[0] * height * width, dtype=torch.int32, device=parents.device)
    parts.index_add_(0, parents, torch.ones_like(parents, dtype=torch.int32))
    return (parts >= 2).view(size[0], height, width)


def _grid(unknown: Tensor, finer: _Grid | None = None) -> _Grid:
    """The grid of the unknown cells (B, h, w); joined to the finer one where there is one."""
    device = unknown.device
    count, height, width = unknown.shape
    cells = unknown.nonzero(as_tuple=True)
    image, y, x = (c.int() for c in cells)
    n, row = len(image), width + 2
    places = (image * (height + 2) + y + 1) * row + x + 1
    near = (places - row - 1)[:, None] + _offsets(3, row, device)
    # Two rows more, all frame: a coarser cell at the lower edge looks so far.
    numbers = torch.full(((count * (height + 2) + 2) * row,), n, dtype=torch.int32, device=device)
    numbers.scatter_(0, places.long(), torch.arange(n, dtype=torch.int32, device=device))
    weight = _inside(BLUR, (height, width), 1, device)[y, x]
    hold = torch.zeros_like(weight)
    if finer is not None:
        _, above, beside = finer.framed
        corners = (image * above + 2 * y) * beside + 2 * x
        children = _look_up(finer.numbers, corners[:, None] + _offsets(4, beside, device))
        finer.down = _sparse(children, _kernel(BILINEAR, device), len(finer.weight))
        fully = _inside(BILINEAR, (above - 2, beside - 2), 2, device)[y, x]
        hold = HOLD * (fully - (finer.down @ finer.inverse.mul(finer.weight))[:-1, 0]).clamp(min=0)
    inverse = 1 / (weight + hold)
    jacobi = _sparse(_look_up(numbers, near), inverse[:, None] * _kernel(BLUR, device), n + 1)
    if finer is not None:
        image, y, x = (c.int() for c in finer.cells)
        parents = (image * (height + 2) + (y >> 1) + 1) * row + (x >> 1) + 1
        sideways, upwards = (x & 1) * 2 - 1, ((y & 1) * 2 - 1) * row
        around = torch.stack([torch.zeros_like(x), sideways, upwards, sideways + upwards], dim=1)
        shares = weight.new_tensor([9, 3, 3, 1]) / 16
        finer.up = _sparse(
            _look_up(numbers, parents[:, None] + around), finer.inverse[:-1] * shares, n + 1
        )
    weight, inverse = (F.pad(v, (0, 1))[:, None] for v in (weight, inverse))
    places, framed = places.long(), (count, height + 2, row)
    scratch = weight.new_zeros(2, n + 1, COLUMNS)
    return _Grid(cells, framed, places, near, numbers, weight, inverse, jacobi, *scratch)


def _sparse(columns: Tensor, values: Tensor, width: int) -> Tensor:
    """A CSR matrix (n + 1, width) of as many values in each row, but none in the last.

    columns: (n, k) int32. values: (n, k), or (k,) for all rows.
    """
    n, k = columns.shape
    starts = torch.arange(n + 2, dtype=torch.int32, device=columns.device).clamp_(max=n) * k
    values = values.expand(n, k).flatten()
    shape = (n + 1, width)
    return torch.sparse_csr_tensor(starts, columns.flatten(), values, shape, check_invariants=False)


def _look_up(numbers: Tensor, places: Tensor) -> Tensor:
    return numbers.index_select(0, places.flatten()).view(places.shape)  # faster than indexing


@cache
def _kernel(taps: tuple[float, ...], device: torch.device) -> Tensor:
    line = torch.tensor(taps, device=device)
    return torch.outer(line, line).flatten()


@cache
def _offsets(side: int, row: int, device: torch.device) -> Tensor:
    line = torch.arange(side, dtype=torch.int32, device=device)
    return (line[:, None] * row + line).flatten()


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
