"""Imputation on CPUs: image by image, in loops that Numba compiles.

Scattered pixels and small holes take a few Gauss–Seidel sweeps. The result for an image does not
depend on the other images of a batch.

Arrays of images and grids have a frame one cell wide around them, in which nothing is unknown. The
n unknown cells are numbered from 0, and the number n stands for a cell that is not unknown.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ttame_core.perturbation.imputation.equations import (
    BILINEAR,
    GREY,
    HOLD,
    MOST_ITERATIONS,
    NEARER,
)

TOLERANCE = 2e-4  # size of the last correction; the remaining error is mostly a tenth of it
BOUND = 1e-3  # error that sweeps may leave
QUICK = 0.8  # sweeps go on while each leaves at most this share of the error
FEW = 32  # with fewer unknowns, a system is solved directly

# Offsets of the eight neighbours, row by row: four before a cell, four after it.
DOWN, RIGHT = (-1, -1, -1, 0, 0, 1, 1, 1), (-1, 0, 1, -1, 1, -1, 0, 1)
CORNER, EDGE, CENTRE = np.float32(1 / 16), np.float32(1 / 8), np.float32(1 / 4)
WEIGHTS = np.array([1, 2, 1, 2, 2, 1, 2, 1], np.float32) / 16
# (4, 4): shares of the four coarser cells around a cell, by whether its row and column are even.
SHARES = np.kron(NEARER, NEARER).astype(np.float32)

Floats, Indices = NDArray[np.float32], NDArray[np.uint32]
# A grid is (near, inverse, parents, shares). near: (n, 8), the neighbours' numbers. inverse: (n,)
# 1 / (ρ + μ − ¼). parents, shares: (n, 4), numbers and weights of the coarser cells around each
# cell; empty on the coarsest grid.
Grid = tuple[Indices, Floats, Indices, Floats]

compiled = partial(njit, nogil=True, error_model="numpy")
try:
    compiled(lambda: None, cache=True)
    compiled = partial(compiled, cache=True)
except RuntimeError:
    pass  # there is no folder for compiled code
compiled = compiled()


def impute_each(images: Tensor, removed: Tensor) -> Tensor:
    """Impute each image by itself, on the CPU, with compiled loops.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        removed: (B, H, W) bool.
    """
    imputed = images.clone(memory_format=torch.contiguous_format)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(_impute, imputed.numpy(), F.pad(removed, (1, 1, 1, 1)).numpy()))
    return imputed


@compiled
def _impute(image: Floats, unknown: NDArray[np.bool_]) -> None:
    """Impute an image (3, H, W) in place, at its unknown pixels (H + 2, W + 2)."""
    _, height, width = image.shape
    cells, numbers = _cells(unknown)
    hold = np.zeros(unknown.shape, np.float32)
    near, weight, inverse = _equations(cells, numbers, hold, height, width)
    solution = np.zeros((len(cells) + 1, 3), np.float32)
    given = _given(image, unknown, cells)
    nothing_left = len(cells) == height * width
    if not nothing_left and not _sweeps(near, inverse, given, solution):
        grids, solver = _grids(cells, near, weight, inverse, height, width)
        _conjugate_gradients(grids, solver, weight, given, solution)
    for i in range(len(cells)):
        for c in range(3):
            image[c, cells[i, 0] - 1, cells[i, 1] - 1] = solution[i, c] + np.float32(GREY)


# ---- equations -------------------------------------------------------------------------------


@compiled
def _cells(unknown: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """Return rows and columns (n, 2) of the unknown cells, and each cell's number.

    unknown and the numbers are (h + 2, w + 2).
    """
    rows, columns = unknown.shape
    n = np.sum(unknown)
    cells = np.empty((n, 2), np.uint32)
    numbers = np.full(unknown.shape, n, np.uint32)
    i = 0
    for y in range(1, rows - 1):
        for x in range(1, columns - 1):
            if unknown[y, x]:
                cells[i, 0], cells[i, 1] = y, x
                numbers[y, x] = i
                i += 1
    return cells, numbers


@compiled
def _equations(
    cells: Indices, numbers: Indices, hold: Floats, height: int, width: int
) -> tuple[Indices, Floats, Floats]:
    """Return the equations (ρ + μ − S) x = b of a grid's n unknown cells (see the package).

    Args:
        cells: (n, 2), row and column of each unknown cell.
        numbers: (h + 2, w + 2), number of each unknown cell; n for others.
        hold: (h + 2, w + 2), weighted count of the known pixels in and around each cell, μ / HOLD.
        height: h, rows of the grid.
        width: w, columns of the grid.

    Returns:
        (n, 8), the numbers of each cell's neighbours; (n,), ρ; and (n,), 1 / (ρ + μ − ¼).
    """
    n = len(cells)
    near = np.empty((n, 8), np.uint32)
    weight, inverse = np.empty(n, np.float32), np.empty(n, np.float32)
    for i in range(n):
        y, x = cells[i]
        for k in range(8):
            near[i, k] = numbers[y + DOWN[k], x + RIGHT[k]]
        weight[i] = _blur_inside(y, height) * _blur_inside(x, width)
        inverse[i] = 1 / (weight[i] + HOLD * max(hold[y, x], 0) - CENTRE)
    return near, weight, inverse


@compiled
def _given(image: Floats, unknown: NDArray[np.bool_], cells: Indices) -> Floats:
    """Return the weighted sums of the known pixels around each unknown one.

    The result is (n + 1, 3): a row of three colours for each of the n unknown pixels in `cells`,
    and a last row of zeros, which stands for neighbours that are known.
    """
    _, height, width = image.shape
    given = np.zeros((len(cells) + 1, 3), np.float32)
    for i in range(len(cells)):
        for k in range(8):
            y, x = cells[i, 0] + DOWN[k], cells[i, 1] + RIGHT[k]
            if 0 < y <= height and 0 < x <= width and not unknown[y, x]:
                for c in range(3):
                    given[i, c] += WEIGHTS[k] * (image[c, y - 1, x - 1] - np.float32(GREY))
    return given


@compiled
def _grids(
    cells: Indices, near: Indices, weight: Floats, inverse: Floats, height: int, width: int
) -> tuple[list[Grid], Floats]:
    """Return the grids from the finest to the coarsest, and the inverse of the coarsest matrix."""
    grids = []
    while len(cells) > FEW and max(height, width) > 3:
        unknown, hold, shares = _coarser(cells, weight, inverse, height, width)
        coarse, numbers = _cells(unknown)
        grids.append((near, inverse, _parents(cells, numbers), shares))
        cells, height, width = coarse, (height + 1) // 2, (width + 1) // 2
        near, weight, inverse = _equations(cells, numbers, hold, height, width)
    grids.append((near, inverse, np.empty((0, 4), np.uint32), np.empty((0, 4), np.float32)))
    return grids, _solver(near, inverse)


@compiled
def _solver(near: Indices, inverse: Floats) -> Floats:
    """Return the inverse (n, n) of the matrix ρ + μ − S, from `near` and `inverse` of a Grid."""
    n = len(near)
    matrix = np.zeros((n, n + 1))  # the last column takes the weights of known cells
    for i in range(n):
        for k in range(8):
            matrix[i, near[i, k]] = -WEIGHTS[k]
        matrix[i, i] = 1 / inverse[i]
    return np.linalg.inv(matrix[:, :n].copy()).astype(np.float32)


@compiled
def _coarser(
    cells: Indices, weight: Floats, inverse: Floats, height: int, width: int
) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Return the unknown cells of the next coarser grid, its `hold`, and the finer cells' shares.

    `hold` is as in `_equations`; a share is the weight of a coarser cell for a finer one.
    A coarser cell, of twice the side, is unknown where at least two of its four finer cells are.
    Where a side of the image is odd, the last coarser cells stick out of it: their finer cells get
    shares as if the image had one more row or column.
    """
    rows, columns = (height + 1) // 2, (width + 1) // 2
    counts = np.zeros((rows + 2, columns + 2), np.int32)
    hold = np.zeros((rows + 2, columns + 2), np.float32)
    for y in range(1, rows + 1):
        for x in range(1, columns + 1):
            hold[y, x] = _children_inside(y, height) * _children_inside(x, width)
    even_height = height + (height % 2 if height > 3 else 0)
    even_width = width + (width % 2 if width > 3 else 0)
    shares = np.empty((len(cells), 4), np.float32)
    for i in range(len(cells)):
        y, x = cells[i]
        counts[(y + 1) // 2, (x + 1) // 2] += 1
        diagonal = 1 / inverse[i] + CENTRE
        more = _blur_inside(y, even_height) * _blur_inside(x, even_width) - weight[i]
        for k in range(4):
            share = SHARES[y % 2 * 2 + x % 2, k]
            hold[y // 2 + k // 2, x // 2 + k % 2] -= share * weight[i] / diagonal
            shares[i, k] = share / (diagonal + more)
    return counts >= 2, hold, shares


@compiled
def _parents(cells: Indices, numbers: Indices) -> Indices:
    parents = np.empty((len(cells), 4), np.uint32)
    for i in range(len(cells)):
        for k in range(4):
            parents[i, k] = numbers[cells[i, 0] // 2 + k // 2, cells[i, 1] // 2 + k % 2]
    return parents


@compiled
def _blur_inside(place: int, side: int) -> float:
    """Return the sum of the weights [1 2 1] / 4 around a position that lie inside, at 1 to side."""
    return 1 - 0.25 * (place == 1) - 0.25 * (place == side)


@compiled
def _children_inside(place: int, side: int) -> float:
    """Return the sum of the shares that a cell gives to finer cells inside, at 1 to side."""
    inside = 0.0
    for k in range(4):
        if 1 <= 2 * place - 2 + k <= side:
            inside += BILINEAR[k]
    return inside


# ---- solution --------------------------------------------------------------------------------


@compiled
def _around(x: Floats, near: Indices, i: int, c: int) -> np.float32:
    return _before(x, near, i, c) + _after(x, near, i, c)


@compiled
def _before(x: Floats, near: Indices, i: int, c: int) -> np.float32:
    corners = x[near[i, 0], c] + x[near[i, 2], c]
    return CORNER * corners + EDGE * (x[near[i, 1], c] + x[near[i, 3], c])


@compiled
def _after(x: Floats, near: Indices, i: int, c: int) -> np.float32:
    corners = x[near[i, 5], c] + x[near[i, 7], c]
    return CORNER * corners + EDGE * (x[near[i, 4], c] + x[near[i, 6], c])


@compiled
def _sweeps(near: Indices, inverse: Floats, given: Floats, x: Floats) -> bool:
    """Make Gauss–Seidel sweeps from x = 0 while they converge quickly; say whether that suffices.

    The error is bounded by the same sweeps on a system whose solution is 0, started from 1: they
    leave a share of the error, and at the start colours are at most 0.5 (GREY) from the solution.
    """
    bound = np.ones((len(x), 1), np.float32)
    bound[-1] = 0
    left = np.float32(1)
    for sweep in range(MOST_ITERATIONS):
        before, left = left, np.float32(0)
        for i in range(len(near)):
            bound[i, 0] = _around(bound, near, i, 0) * inverse[i]
            left = max(left, bound[i, 0])
            for c in range(3):
                x[i, c] = (given[i, c] + _around(x, near, i, c)) * inverse[i]
        if GREY * left <= BOUND:
            return True
        if sweep > 0 and left > QUICK * before:
            break
    return False


@compiled
def _conjugate_gradients(
    grids: list[Grid], solver: Floats, weight: Floats, given: Floats, x: Floats
) -> None:
    """Solve by conjugate gradients, in place: x becomes the solution, and `given` the residual."""
    near = grids[0][0]
    n = len(near)
    left, right = [np.zeros_like(x)], [given]
    for coarser in grids[1:]:
        left.append(np.zeros((len(coarser[0]) + 1, 3), np.float32))
        right.append(np.zeros((len(coarser[0]) + 1, 3), np.float32))
    correction, residual = left[0], right[0]
    direction, change = np.zeros_like(x), np.zeros_like(x)
    _apply(near, weight, x, change)
    residual -= change
    energy = np.ones(3)
    for _ in range(MOST_ITERATIONS):
        largest = _cycle(grids, solver, right, left)
        before, energy = energy, _inner(residual, correction)
        for i in range(n):
            for c in range(3):
                share = np.float32(energy[c] / before[c] if before[c] > 0 else 0)
                direction[i, c] = correction[i, c] + share * direction[i, c]
        _apply(near, weight, direction, change)
        curvature = _inner(direction, change)
        for c in range(3):
            step = np.float32(energy[c] / curvature[c] if curvature[c] > 0 else 0)
            for i in range(n):
                x[i, c] += step * direction[i, c]
                residual[i, c] -= step * change[i, c]
        if largest < TOLERANCE:
            break


@compiled
def _apply(near: Indices, weight: Floats, x: Floats, out: Floats) -> None:
    """Write (ρ − S) x into `out`, from differences of neighbours.

    The rounding errors of a sum of neighbours would grow with the size of the holes.
    """
    for i in range(len(near)):
        for c in range(3):
            total = (weight[i] - np.float32(1)) * x[i, c]
            for k in range(8):
                total += WEIGHTS[k] * (x[i, c] - x[near[i, k], c])
            out[i, c] = total


@compiled
def _inner(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Return the inner products (3,) of the colours."""
    sums = np.zeros(3)
    for i in range(len(a)):
        for c in range(3):
            sums[c] += np.float64(a[i, c]) * b[i, c]
    return sums


@compiled
def _cycle(
    grids: list[Grid], solver: Floats, right: list[Floats], left: list[Floats]
) -> np.float32:
    """Run a V-cycle from 0, with a sweep before and a backward sweep after the coarser grid.

    right and left are the right sides b and the solutions x of all grids, the finest first. The
    result is the largest absolute value of the finest solution.
    """
    last = len(grids) - 1
    for level in range(last):
        _down(grids[level], right[level], left[level], right[level + 1])
    n = len(solver)
    for i in range(n):
        for c in range(3):
            left[last][i, c] = 0
            for j in range(n):
                left[last][i, c] += solver[i, j] * right[last][j, c]
    largest = np.float32(0)
    for level in range(last - 1, -1, -1):
        largest = _up(grids[level], right[level], left[level], left[level + 1])
    return largest


@compiled
def _down(grid: Grid, given: Floats, x: Floats, below: Floats) -> None:
    near, inverse, parents, shares = grid
    for i in range(len(near)):
        for c in range(3):
            x[i, c] = (given[i, c] + _before(x, near, i, c)) * inverse[i]
    below.fill(0)
    for i in range(len(near)):  # the residual of the sweep is due to the cells after each cell
        for c in range(3):
            left = _after(x, near, i, c)
            for k in range(4):
                below[parents[i, k], c] += shares[i, k] * left


@compiled
def _up(grid: Grid, given: Floats, x: Floats, above: Floats) -> np.float32:
    near, inverse, parents, shares = grid
    for i in range(len(near)):
        for c in range(3):
            added = np.float32(0)
            for k in range(4):
                added += shares[i, k] * above[parents[i, k], c]
            x[i, c] += added
    largest = np.float32(0)
    for i in range(len(near) - 1, -1, -1):
        for c in range(3):
            value = (given[i, c] + _around(x, near, i, c)) * inverse[i]
            x[i, c] = value
            largest = max(largest, abs(value))
    return largest
