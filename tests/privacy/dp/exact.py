"""Exact deltas of mechanisms and neighbours that can be worked out by hand, to hold claimed epsilons against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import expit

Floats = npt.NDArray[np.floating[Any]]


def hockey_stick(losses: Floats, chances: Floats, epsilon: float) -> float:
    """delta at ``epsilon`` of a privacy loss with these values and chances."""
    above = losses > epsilon
    return float((chances[above] * -np.expm1(epsilon - losses[above])).sum())


def gaussian(sigma: float, count: int, epsilon: float) -> float:
    """``count`` releases with multiplier ``sigma`` (Balle and Wang, arXiv 1805.06530, theorem 8)."""
    s = sigma / math.sqrt(count)
    lost = stats.norm.cdf(0.5 / s - epsilon * s)
    return float(lost - math.exp(epsilon + stats.norm.logcdf(-0.5 / s - epsilon * s)))


def discrete_gaussian(sigma: float, count: int, epsilon: float) -> float:
    """``count`` independent cells that each move by 1: the loss is (count - 2 S) / (2 sigma^2), S the sum of noise."""
    reach = math.ceil(14 * sigma)
    x = np.arange(-reach, reach + 1)
    single = np.exp(-(x**2) / (2 * sigma**2))
    single /= single.sum()
    total = single
    for _ in range(count - 1):
        total = np.convolve(total, single)
    noise = np.arange(-reach * count, reach * count + 1)
    return hockey_stick((count - 2 * noise) / (2 * sigma**2), total, epsilon)


def pure(each: float, count: int, epsilon: float, delta: float = 0.0) -> float:
    """The worst ``count`` (each, delta)-DP releases (Kairouz, Oh and Viswanath, arXiv 1311.0776, theorem 3.3)."""
    k = np.arange(count + 1)
    chances = stats.binom.pmf(k, count, expit(each))
    inner = hockey_stick(each * (2 * k - count), chances, epsilon)
    return float(1 - (1 - delta) ** count * (1 - inner))


def laplace(each: float, epsilon: float) -> float:
    """One release of Laplace noise with pure epsilon ``each``."""
    return max(0.0, -math.expm1((epsilon - each) / 2))


def exponential(eta: float, count: int, epsilon: float) -> float:
    """The worst of many pairs of candidates between which the exponential mechanism of range eta picks."""
    k = np.arange(count + 1)
    worst = 0.0
    for logit in np.linspace(-6, 6, 49):
        p, q = expit(logit), expit(logit - eta)
        losses = k * math.log(p / q) + (count - k) * math.log((1 - p) / (1 - q))
        worst = max(worst, hockey_stick(losses, stats.binom.pmf(k, count, p), epsilon))
        losses = k * math.log(q / p) + (count - k) * math.log((1 - q) / (1 - p))
        worst = max(worst, hockey_stick(losses, stats.binom.pmf(k, count, q), epsilon))
    return worst
