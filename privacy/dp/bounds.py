"""Limits and defaults that all plans over votes and counts share."""

from __future__ import annotations

from typing import Literal

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import check_delta, check_epsilon
from privacy.dp.text_plan import DEFAULT_DELTA, MAX_DELTA, MAX_EPSILON

LEAST_EPSILON = 0.01
DEFAULT_EPSILON = {"count": 0.3, "choice": 1.0, "keywords": 1.0}
OPTIONS = (2, 12)
CONFIDENCE = 0.95
ADJACENCY: Literal["swap"] = "swap"


def epsilon_of(value: float | None, default: float) -> float:
    """The epsilon that was asked for, or ``default``.

    Raises:
        InvalidParameter: it is out of range.
    """
    epsilon = check_epsilon(default if value is None else value, high=MAX_EPSILON)
    if epsilon < LEAST_EPSILON:
        raise InvalidParameter(f"epsilon must be at least {LEAST_EPSILON:g}.", field="epsilon", low=LEAST_EPSILON)
    return epsilon


def delta_of(value: float | None) -> float:
    """The delta that was asked for, or the usual one.

    Raises:
        InvalidParameter: it is out of range.
    """
    return check_delta(DEFAULT_DELTA if value is None else value, high=MAX_DELTA)
