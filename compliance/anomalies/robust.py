"""Medians and deviations that a few wild days do not move (Rousseeuw and Croux 1993, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import median

MAD_TO_SIGMA = 1.4826
"""Makes the median absolute deviation of a normal sample its standard deviation."""


def robust_z(value: float, history: Sequence[float]) -> float:
    """How many robust deviations ``value`` lies above the median of ``history``.

    The deviation is never less than that of a count with this median (its square root), nor less than 1: a person with
    ten requests each day is not remarkable with twelve.

    Raises:
        ValueError: there is no history.
    """
    if not history:
        raise ValueError("there is no history")
    middle = median(history)
    spread = MAD_TO_SIGMA * median(abs(x - middle) for x in history)
    return (value - middle) / max(spread, sqrt(max(middle, 0.0)), 1.0)


def share_near(hours: Sequence[int], hour: int, margin: int) -> float:
    """The share of 24 hourly counts that lies within ``margin`` hours of ``hour``, around midnight too; 0 to 1."""
    total = sum(hours)
    near = {(hour + step) % 24 for step in range(-margin, margin + 1)}
    return sum(hours[h] for h in near) / total if total else 0.0
