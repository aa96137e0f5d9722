"""Whole units in which epsilon is counted where it is only added up."""

from __future__ import annotations

MICRO = 1_000_000


def micro(epsilon: float) -> int:
    """Epsilon in whole millionths, rounded up but for the float's own error: a charge is never less than the claim."""
    scaled = round(epsilon * MICRO)
    return scaled if scaled >= epsilon * MICRO - 1e-6 else scaled + 1
