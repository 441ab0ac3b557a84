"""The statistics of paired values: bootstrap intervals, Wilcoxon's test, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np

SIGNIFICANT = 0.05  # the corrected p under which a difference is beyond chance


def bootstrap_weights(db: duckdb.DuckDBPyConnection) -> np.ndarray:
    """How often each group of images counts in each replicate, as leaderboard.sql draws them."""
    return np.array([w for (w,) in db.sql("SELECT weights FROM bootstrap").fetchall()])


def paired(differences: np.ndarray, bucket: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Mean difference, its 95 % interval, and Wilcoxon's p.

    differences: (N,) of the pairs. bucket: (N,) in 0…255, the group of each image. weights:
    (R, 256), how often each replicate counts each group (sql/leaderboard.sql).
    """
    from scipy import stats

    totals = np.bincount(bucket, differences, minlength=256)
    counts = np.bincount(bucket, minlength=256)
    with np.errstate(invalid="ignore"):  # a replicate that counts no image has no mean
        low, high = np.nanquantile((weights @ totals) / (weights @ counts), [0.025, 0.975])
    p = stats.wilcoxon(differences).pvalue if np.any(differences) else 1.0
    return {
        "difference": float(differences.mean()),
        "ci_low": float(low),
        "ci_high": float(high),
        "p": float(p),
        "pairs": len(differences),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): the i-th smallest of m times m − i."""
    order = np.argsort(p_values)
    scaled = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected.tolist()
