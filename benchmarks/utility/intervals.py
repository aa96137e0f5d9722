"""How sure a share is, and how many points noise has cost. Pure.

Shares are in [0, 1]; points are percentage points. Intervals hold with 95 % confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2_000
SEED = 20_260_101  # of resampling only; noise comes from the operating system
_Z = 1.959963984540054  # 97.5 % of the normal distribution


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its interval; ``n`` is how many independent parts it rests on."""

    value: float
    low: float
    high: float
    n: int


def wilson(right: float, n: int) -> Estimate:
    """Wilson's interval of a share of ``n`` trials. ``right`` may be fractional: a trial's share over many draws counts
    as that part of a success, which makes the interval wider than it need be and never narrower.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError("right must lie between 0 and n, and n be at least 1")
    share, z2 = right / n, _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), n)


def accuracy(shares: Sequence[float], units: Sequence[str]) -> Estimate:
    """Mean share of right answers, each unit weighing the same, with Wilson's interval over units.

    Wordings of one question to one hospital read the same votes: they are one unit and make nothing surer.

    Raises:
        ValueError: nothing was measured.
    """
    grouped = _grouped(shares, units)
    return wilson(sum(sum(part) / len(part) for part in grouped.values()), len(grouped))


def points_lost(before: Sequence[float], after: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """Accuracy without noise minus accuracy with it, in points; bootstrap over clusters (percentiles).

    The pairs of one cluster are drawn together: questions about one planted fact are alike at every hospital.

    Raises:
        ValueError: nothing was measured.
    """
    pairs = [100 * (one - other) for one, other in zip(before, after, strict=True)]
    return bootstrap(list(_grouped(pairs, clusters).values()), _mean)


def bootstrap(parts: Sequence[Sequence[float]], statistic: Callable[[Floats], float]) -> Estimate:
    """``statistic`` of all values together, its interval from drawing whole parts with replacement.

    Raises:
        ValueError: nothing was measured.
    """
    arrays = [np.asarray(part, dtype=np.float64) for part in parts if len(part)]
    if not arrays:
        raise ValueError("nothing was measured")
    draw = np.random.default_rng(SEED)
    picks = draw.integers(len(arrays), size=(RESAMPLES, len(arrays)))
    found = [statistic(np.concatenate([arrays[place] for place in row])) for row in picks]
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(statistic(np.concatenate(arrays)), float(low), float(high), len(arrays))


def _mean(values: Floats) -> float:
    return float(values.mean())


def _grouped(values: Sequence[float], names: Sequence[str]) -> dict[str, list[float]]:
    grouped: dict[str, list[float]] = {}
    for value, name in zip(values, names, strict=True):
        grouped.setdefault(name, []).append(value)
    return grouped
