"""The statistics of paired values: bootstrap intervals, Wilcoxon's test, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import duckdb
import numpy as np

SIGNIFICANT = 0.05  # corrected p under which a difference counts as beyond chance
EXACT = 50  # pairs, up to which all choices of signs are counted


def bootstrap_weights(db: duckdb.DuckDBPyConnection) -> np.ndarray:
    """Return how often each bootstrap replicate counts each group of images, (R, 256).

    The weights are those of the leaderboard (lake/query/sql/leaderboard.sql).

    Args:
        db: connection to a lake.
    """
    return np.array([w for (w,) in db.sql("SELECT weights FROM bootstrap").fetchall()])


def paired(differences: np.ndarray, bucket: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Return the mean difference of pairs, its 95 % bootstrap interval, and Wilcoxon's p.

    Args:
        differences: (N,), difference of each pair.
        bucket: (N,) in 0 to 255, group of each image.
        weights: (R, 256), how often each replicate counts each group (`bootstrap_weights`).
    """
    totals = np.bincount(bucket, differences, minlength=256)
    counts = np.bincount(bucket, minlength=256)
    with np.errstate(invalid="ignore"):  # a replicate that counts no image has no mean
        low, high = np.nanquantile((weights @ totals) / (weights @ counts), [0.025, 0.975])
    return {
        "difference": float(differences.mean()),
        "ci_low": float(low),
        "ci_high": float(high),
        "p": wilcoxon(differences),
        "pairs": len(differences),
    }


def wilcoxon(differences: np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test (Wilcoxon 1945).

    Pairs without a difference are left out, and equal differences share the mean of their ranks.
    Up to 50 pairs (EXACT), p is the share of all choices of signs with a sum of signed ranks at
    least as far from 0; beyond, it is that of a normal distribution of the same variance. SciPy has
    the same test, and takes a second to import.

    Args:
        differences: (N,), difference of each pair.
    """
    signed = differences[differences != 0]
    _, place, counts = np.unique(np.abs(signed), return_inverse=True, return_counts=True)
    ranks = (2 * np.cumsum(counts) - counts + 1)[place]  # twice the ranks: whole numbers
    distance = abs(np.sign(signed) @ ranks)
    if len(ranks) > EXACT or np.isnan(distance):
        return math.erfc(distance / (math.sqrt(2) * np.linalg.norm(ranks)))
    sums = np.arange(-ranks.sum(), ranks.sum() + 1, 2)
    choices = np.zeros(len(sums))  # of signs, with each sum
    choices[0] = 1
    for rank in ranks:
        choices[rank:] += choices[:-rank].copy()
    return float(choices[np.abs(sums) >= distance].sum() / 2 ** len(ranks))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979).

    The i-th smallest of m values, i from 0, is multiplied by m − i. A corrected value is at most 1,
    and at least that of any smaller p-value.

    Returns:
        The corrected values, at the positions of the given ones.
    """
    order = np.argsort(p_values)
    scaled = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected.tolist()
