"""Values in the units of their metrics."""

from __future__ import annotations

from ttame_core.lake.query.directions import direction


def shown(value: float, metric: str) -> str:
    """A value in its metric's unit: percent to a tenth, many passes whole, others by their size."""
    unit = direction(metric).unit
    if unit == "passes" and abs(value) >= 10:
        return f"{value:.0f}"
    if unit == "%" or abs(value) >= 100:
        return f"{value:.1f}"
    if unit == "" and abs(value) >= 0.01:
        return f"{value:.3f}"
    return f"{value:.3g}"
