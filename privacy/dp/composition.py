"""Five ways to add up releases: the epsilon that holds for all of them together at one delta.

Each takes ``parts``, pairs of an event and how often it was released, all about one unit and one adjacency, and a
delta; each gives an epsilon rounded up, 0 for no release. ``pld`` is for reports: as a filter it is not free when costs
are chosen adaptively (arXiv 2602.15815).

Raises:
    InvalidParameter: no epsilon of this kind holds, and why (``details['field']`` is ``delta`` or ``composition``); or
        a count is no whole number, 0 or more (``count``): a negative one would make the sum too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import Any, Literal, get_args

import numpy as np
from dp_accounting.pld import accountant, common

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import MIN_DELTA, check_delta, check_whole, epsilon_of_rho, up
from privacy.dp.curves import ORDERS, divergences, epsilon_of_divergences, loss_distribution
from privacy.dp.events import Event
from privacy.dp.releases import Approximate

Composition = Literal["basic", "advanced", "rdp", "pld", "zcdp"]
Parts = Sequence[tuple[Event, int]]

_PLD_ERROR = 1e-15  # float error of one convolution, absolute, in delta
_MAX_COUNT = 10**12
_OPTIMAL_COUNT, _OPTIMAL_EPSILON = 300, 300.0  # the library's formula is quadratic and overflows beyond


def composed(parts: Parts, delta: float, composition: Composition) -> float:
    """Epsilon of ``parts`` together at ``delta``."""
    check_delta(delta)
    check_composition(composition)
    one_kind([event for event, _ in parts])
    merged: dict[Event, int] = {}
    for event, count in parts:
        merged[event] = merged.get(event, 0) + check_whole(count, "count", 0, _MAX_COUNT)
    # One order of adding, so that the figure does not depend on the order of the releases.
    ordered = sorted(((event, count) for event, count in merged.items() if count), key=lambda part: part[0].key)
    return _WAYS[composition](ordered, delta) if ordered else 0.0


def check_composition(composition: str) -> None:
    """Raises :class:`InvalidParameter` for an unknown composition."""
    if composition not in get_args(Composition):
        raise InvalidParameter(f"composition must be one of {', '.join(get_args(Composition))}.", field="composition")


def one_kind(events: Sequence[Event]) -> None:
    """Raises :class:`InvalidParameter` where epsilons of different units or adjacencies would be added."""
    for field in ("unit", "adjacency"):
        found = sorted({getattr(event, field) for event in events})
        if len(found) > 1:
            raise InvalidParameter(
                f"An epsilon for one {field} ({found[0]}) and one for another ({found[1]}) do not add up.", field=field
            )


@lru_cache(maxsize=4096)
def epsilon_of(event: Event, delta: float) -> float:
    """The smallest epsilon known to hold at ``delta`` for a single release, rounded up."""
    found: list[float] = []
    for way in (_rdp, _pld):
        try:
            found.append(way([(event, 1)], delta))
        except InvalidParameter:
            continue
    if not found:
        raise _none(delta)
    return min(found)


def _none(delta: float) -> InvalidParameter:
    return InvalidParameter(f"No finite epsilon holds for these releases at delta {delta:g}.", field="delta")


def _rdp(parts: Parts, delta: float) -> float:
    total = np.zeros(len(ORDERS))
    for event, count in parts:
        total = total + count * divergences(event)
    # At order infinity divergences are pure epsilons, and those add up at delta 0.
    finite = total * (1 + 1e-12)
    epsilon = min(epsilon_of_divergences(finite, delta), _pure(parts))
    if not math.isfinite(epsilon):
        raise _none(delta)
    return epsilon


def _pure(parts: Parts) -> float:
    pures = [(event.mechanism.pure, count) for event, count in parts]
    return up(math.fsum(count * (math.inf if pure is None else pure) for pure, count in pures))


def _zcdp(parts: Parts, delta: float) -> float:
    rhos = [(event.mechanism.rho, count) for event, count in parts]
    if any(rho is None for rho, _ in rhos):
        raise InvalidParameter(
            "A sampled release, or an (epsilon, delta) claim with a delta above 0, has no zCDP: compose it otherwise.",
            field="composition",
        )
    return epsilon_of_rho(up(math.fsum(count * (rho or 0.0) for rho, count in rhos)), delta)


def _pld(parts: Parts, delta: float) -> float:
    spared = delta - _PLD_ERROR * sum(count for _, count in parts)
    if spared < delta / 2:
        raise InvalidParameter("This delta is too small for the accuracy of a loss distribution.", field="delta")
    total: Any = reduce(lambda a, b: a.compose(b), (loss_distribution(event, count) for event, count in parts))
    epsilon = float(total.get_epsilon_for_delta(spared))
    if not math.isfinite(epsilon):
        raise _none(delta)
    return max(0.0, epsilon * (1 + 1e-9) + 1e-12)


def _shares(parts: Parts, delta: float) -> tuple[list[tuple[float, float, int]], float]:
    """(epsilon, delta, count) of every release when those with a curve share ``delta`` evenly, after what claims have
    of their own; and the delta that is used up."""
    claimed = _claimed(parts)
    kinds = [(event.mechanism, count) for event, count in parts]
    curved = sum(n for kind, n in kinds if not isinstance(kind, Approximate) and kind.pure is None)
    if claimed > delta or (curved and (delta - claimed) / curved * (1 - 1e-9) < MIN_DELTA):
        raise InvalidParameter(
            f"The deltas of the releases add up to {claimed:g} or more; no epsilon holds at {delta:g}.",
            field="delta",
            needed=claimed,
        )
    share = (delta - claimed) / curved * (1 - 1e-9) if curved else 0.0
    found: list[tuple[float, float, int]] = []
    for event, count in parts:
        mechanism = event.mechanism
        if isinstance(mechanism, Approximate):
            found.append((float(mechanism.epsilon), float(mechanism.delta), count))
        elif mechanism.pure is not None:
            found.append((mechanism.pure, 0.0, count))
        else:
            found.append((epsilon_of(event, share), share, count))
    return found, claimed + curved * share


def _claimed(parts: Parts) -> float:
    """The sum of the deltas that releases bring with them."""
    kinds = [(event.mechanism, count) for event, count in parts]
    return math.fsum(count * kind.delta for kind, count in kinds if isinstance(kind, Approximate))


def _basic(parts: Parts, delta: float) -> float:
    """Epsilons add up, and so do deltas, equal or not (Dwork and Roth 2014, theorem 3.16)."""
    return up(math.fsum(epsilon * count for epsilon, _, count in _shares(parts, delta)[0]))


def _advanced(parts: Parts, delta: float) -> float:
    """Kairouz, Oh and Viswanath (arXiv 1311.0776): theorem 3.3 where all releases are alike (dp-accounting's optimal
    composition), theorem 3.5 where they are not. Never more than the plain sum."""
    found = [_basic(parts, delta)]
    slack = (delta - _claimed(parts)) / 2  # half for the theorem, half to share among releases with a curve
    try:
        releases, used = _shares(parts, delta - slack)
    except InvalidParameter:
        return found[0]
    slack = (delta - used) * (1 - 1e-9)
    if slack >= MIN_DELTA:
        mean = math.fsum(n * e * math.tanh(e / 2) for e, _, n in releases)
        spread = math.fsum(n * e * e for e, _, n in releases)
        found.append((mean + math.sqrt(2 * math.log(1 / slack) * spread)) * (1 + 1e-9))
    if len(releases) == 1:
        found.append(_optimal(*releases[0], delta))
    return min(found)


def _optimal(epsilon: float, delta: float, count: int, total: float) -> float:
    target = total * (1 - 1e-6) - 1e-15 * count
    if count > _OPTIMAL_COUNT or epsilon * count > _OPTIMAL_EPSILON or target <= 0:
        return math.inf
    best = accountant.advanced_composition(common.DifferentialPrivacyParameters(epsilon, delta), count, target)
    return math.inf if best is None else up(float(best))


_WAYS: dict[str, Callable[[Parts, float], float]] = {
    "basic": _basic,
    "advanced": _advanced,
    "rdp": _rdp,
    "pld": _pld,
    "zcdp": _zcdp,
}
