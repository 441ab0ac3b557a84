"""Writing of values in the units of their metrics."""

from __future__ import annotations

from ttame_core.lake.query.directions import direction


def shown(value: float, metric: str) -> str:
    """Write a value with the digits that suit its metric's unit; the unit itself is left out.

    Percentages have one decimal and 10 or more passes none; other values have as many digits as
    their size needs, and what is left of 0 by rounding is 0.

    Args:
        value: the value, in the metric's unit.
        metric: full name of the metric.
    """
    unit = direction(metric).unit
    if abs(value) < 1e-12:
        value = 0.0
    if unit == "passes" and abs(value) >= 10:
        return f"{value:.0f}"
    if unit == "%" or abs(value) >= 100:
        return f"{value:.1f}"
    if unit == "" and abs(value) >= 0.01:
        return f"{value:.3f}"
    return f"{value:.3g}"
