"""Constants of the equations that both ways of imputation solve."""

from __future__ import annotations

GREY = 0.5  # where the iteration starts
HOLD = 0.75
BILINEAR = (0.25, 0.75, 0.75, 0.25)  # what a cell gives to the finer cells in and beside it
NEARER = ((0.75, 0.25), (0.25, 0.75))  # what a finer cell of an even or odd row takes of both
MOST_ITERATIONS = 50
