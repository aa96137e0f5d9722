"""Exact laws of counts, votes and words, and how far the worst patient can move them.

The laws are written down here from the papers and not taken from the library that draws: discrete Laplace and discrete
Gaussian weights on whole numbers, and for words the exponential mechanism drawn one after the other without putting
back, which is what the largest of scores with Gumbel noise are (Durfee and Rogers, arXiv 1905.04273).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from benchmarks.dp.renyi import ORDERS, Floats, either_way
from privacy.dp.cohort_plans import ChoicePlan, CountPlan, KeywordsPlan

_TOLERANCE = 1e-9
_WORDS = 6  # of the small list that is looked at from end to end


def noise(kind: str, scale: float, shift: int = 0) -> Floats:
    """Log-probabilities of ``shift`` plus noise, over whole numbers so far out that the rest does not count."""
    reach = math.ceil(40 * scale) + 40
    x = np.arange(-reach, reach + 1) - shift
    weights = -(x.astype(float) ** 2) / (2 * scale**2) if kind == "discrete_gaussian" else -np.abs(x) / scale
    found: Floats = weights - logsumexp(weights)
    return found


@lru_cache(maxsize=8)
def orders_of(count: int, picks: int) -> npt.NDArray[np.int64]:
    """Every ordered choice of ``picks`` of ``count`` places, shape (choices, picks)."""
    return np.array([*itertools.permutations(range(count), picks)])


def words(scores: Sequence[float], scale: float, picks: int) -> Floats:
    """Log-probabilities of the rows of :func:`orders_of`."""
    weights = np.exp((np.array(scores) - max(scores)) / scale)
    chosen = weights[orders_of(len(scores), picks)]
    gone = np.cumsum(chosen, axis=1) - chosen
    found: Floats = np.log(chosen / (weights.sum() - gone)).sum(axis=1)
    return found


def count_violation(plan: CountPlan, *, scale: float | None = None, moved: int = 1) -> str | None:
    """``moved``: by how much one patient moves the count. Whether e^epsilon is exceeded anywhere."""
    one, other = (noise("discrete_laplace", scale or plan.scale, shift) for shift in (0, moved))
    inner = slice(moved, -moved)  # the ends are cut off at different places
    ratio = float(np.abs((one - other)[inner]).max())
    return f"odds change by e^{ratio:.3g}, claimed e^{plan.epsilon:.3g}" if ratio > plan.epsilon * (1 + 1e-6) else None


def choice_violation(plan: ChoicePlan, *, sigma: float | None = None, moved: Sequence[int] = (1, 1)) -> str | None:
    """``moved``: by how much one patient moves each cell. Cells' noise is independent, so divergences add up."""
    sigma = sigma or plan.sigma
    rho = plan.event.mechanism.rho
    assert rho is not None
    still = noise("discrete_gaussian", sigma)
    for order in ORDERS:
        found = sum(either_way(still, noise("discrete_gaussian", sigma, shift), order) for shift in moved)
        if found > order * rho * (1 + _TOLERANCE):
            return f"divergence {found:.4g} at order {order:g}, claimed {order * rho:.4g}"
    return None


def words_worst(plan: KeywordsPlan, order: float, *, scale: float | None = None, step: int = 1) -> float:
    """Largest divergence over every way in which one patient can change each of a few words' counts by ``step``."""
    scale = scale or plan.scale
    worst = 0.0
    for start in _starts(plan.scale, plan.picks):
        still = words(start, scale, plan.picks)
        for change in _changes(step):
            other = words(np.add(start, change).tolist(), scale, plan.picks)
            worst = max(worst, either_way(still, other, order))
    return worst


def words_violation(plan: KeywordsPlan, *, scale: float | None = None, step: int = 1) -> str | None:
    for order in (2.0, 8.0):
        if (found := words_worst(plan, order, scale=scale, step=step)) > order * plan.rho * (1 + _TOLERANCE):
            return f"divergence {found:.4g} at order {order:g}, claimed {order * plan.rho:.4g}"
    return None


def _changes(step: int) -> Iterator[list[int]]:
    """Up to the names of words: so many counts go up, so many down, the others stay."""
    for up in range(_WORDS + 1):
        for down in range(_WORDS + 1 - up):
            if up or down:
                yield [step] * up + [-step] * down + [0] * (_WORDS - up - down)


def _starts(scale: float, picks: int) -> list[list[float]]:
    """Counts that make the first few words, one after the other, about as likely as all the rest together."""
    even = [0.0] * _WORDS
    halves = [scale * math.log(max(1, _WORDS - 1 - place)) for place in range(_WORDS)]
    ladder = [scale * 2.0 * (_WORDS - place) for place in range(_WORDS)]
    return [even, [halves[0], *even[1:]], halves, ladder, [*ladder[: picks - 1], *even[picks - 1 :]]]
