"""Limits and defaults that all plans over votes and counts share."""

from __future__ import annotations

from typing import Literal

LEAST_EPSILON = 0.01
DEFAULT_EPSILON = {"count": 0.3, "choice": 1.0, "keywords": 1.0}
OPTIONS = (2, 12)
CONFIDENCE = 0.95
ADJACENCY: Literal["swap"] = "swap"
