"""Constants of the equations that both ways of imputation solve."""

from __future__ import annotations

GREY = 0.5  # value of unknown pixels at the start
HOLD = 0.75
BILINEAR = (0.25, 0.75, 0.75, 0.25)  # weights of a cell for the finer cells in and beside it
NEARER = ((0.75, 0.25), (0.25, 0.75))  # weights of both coarser cells for an even or an odd row
MOST_ITERATIONS = 50
