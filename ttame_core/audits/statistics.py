"""The statistics of paired values: bootstrap intervals, Wilcoxon's test, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np

SIGNIFICANT = 0.05  # corrected p under which a difference counts as beyond chance


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
    p = _wilcoxon(differences) if np.any(differences) else 1.0
    return {
        "difference": float(differences.mean()),
        "ci_low": float(low),
        "ci_high": float(high),
        "p": float(p),
        "pairs": len(differences),
    }


def _wilcoxon(differences: np.ndarray) -> float:
    from scipy import stats  # takes a second, which nobody spends who compares what is equal

    return stats.wilcoxon(differences).pvalue


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
