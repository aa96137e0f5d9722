"""Whole units in which epsilon and delta are counted where they are only added up."""

from __future__ import annotations

import math
from fractions import Fraction

MICRO = 1_000_000
FEMTO = 10**15


def femto(delta: float) -> int:
    """Delta in whole units of 1e-15, rounded up."""
    return math.ceil(Fraction(delta) * FEMTO)


def micro(epsilon: float) -> int:
    """Epsilon in whole millionths, rounded up but for the float's own error: a charge is never less than the claim."""
    scaled = round(epsilon * MICRO)
    return scaled if scaled >= epsilon * MICRO - 1e-6 else scaled + 1
