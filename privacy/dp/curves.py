"""Renyi divergence and privacy loss of one event, always through dp-accounting, never below the truth.

Where the library has two valid descriptions of a mechanism, the smaller figure counts at every order. It is asked with
the relation under which the event's parameters mean what they say: a multiplier relative to the sensitivity describes
the same pair of neighbours for either adjacency, so unsampled noise is asked for as ``ADD_OR_REMOVE_ONE``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.pld import common, privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import NANO, check_delta, check_order, nano_rdp_up
from privacy.dp.events import Event
from privacy.dp.releases import (
    Approximate,
    DiscreteGaussian,
    DiscreteLaplace,
    Exponential,
    Gaussian,
    Laplace,
    Mechanism,
    PoissonGaussian,
    SubsetGaussian,
    Zcdp,
    worst_of_pure,
)

ORDERS: tuple[float, ...] = tuple(float(order) for order in DEFAULT_RDP_ORDERS)
#: Name of ``ORDERS`` in stored curves. Another grid needs another name: a test holds this one's orders.
GRID = "orders-1"
# Float error of the library's formulas: relative, and absolute where a logarithm of nearly 1 is taken.
_RELATIVE, _ABSOLUTE = 1e-9, 1e-14
_MAX_STORED = 1e9  # a divergence above this is as good as none, and would not fit 64 bits in nano units
_MAX_PLD_RHO = 25.0  # a distribution for more noise-free a release would take gigabytes

Floats = npt.NDArray[np.float64]


def _described(mechanism: Mechanism) -> list[tuple[Any, NeighboringRelation]]:
    """Library events that each bound the mechanism's divergence, with the relation to ask under."""
    plain, swap = NeighboringRelation.ADD_OR_REMOVE_ONE, NeighboringRelation.REPLACE_ONE
    found: list[tuple[Any, NeighboringRelation]] = []
    if isinstance(mechanism, Gaussian | Laplace | PoissonGaussian):
        found.append((mechanism.dp_event, plain))
    elif isinstance(mechanism, SubsetGaussian):
        found.append((mechanism.dp_event, swap))
    elif mechanism.rho is not None:
        found.append((dp_event.ZCDpEvent(mechanism.rho), plain))
    if mechanism.pure is not None:
        found.append((worst_of_pure(mechanism.pure), swap))
    return found


@lru_cache(maxsize=512)
def _divergences(mechanism: Mechanism, orders: tuple[float, ...]) -> Floats:
    described = _described(mechanism)
    if not described:
        raise InvalidParameter(
            "An (epsilon, delta) claim with a delta above 0 has no Renyi divergence: compose it as basic, advanced or "
            "pld.",
            field="composition",
        )
    found = np.full(len(orders), np.inf)
    for event, relation in described:
        vector = RdpAccountant(orders=orders, neighboring_relation=relation).compose(event).rdp
        # The library reads a negative divergence, which is float noise, as a cost of zero.
        usable = np.where(np.isfinite(vector) & (vector >= 0), vector, np.inf)
        found = np.minimum(found, usable * (1 + _RELATIVE) + _ABSOLUTE)
    found.setflags(write=False)
    return found


def divergences(event: Event) -> Floats:
    """Renyi divergences of the event at ``ORDERS`` (that shape), rounded up, infinite where nothing is known.

    Raises:
        InvalidParameter: an (epsilon, delta) claim, which has none.
    """
    return _divergences(event.mechanism, ORDERS)


def nano_curve(event: Event) -> list[int | None]:
    """Renyi divergences of the event at ``ORDERS`` in whole nano-RDP, rounded up; None where nothing finite is known.

    Raises:
        InvalidParameter: as :func:`divergences`.
    """
    return [math.ceil(value * NANO) if value < _MAX_STORED else None for value in divergences(event)]


def divergence(event: Event, alpha: float) -> float:
    """Renyi divergence of the event at ``alpha``, one of ``BLOCK_ORDERS``, rounded up.

    Raises:
        InvalidParameter: ``alpha`` is off the grid, or the event has no finite divergence there.
    """
    value = float(_divergences(event.mechanism, (check_order(alpha),))[0])
    if not math.isfinite(value):
        raise InvalidParameter("This release has no finite divergence at this order.", field="alpha")
    return value


def nano_divergence(event: Event, alpha: float) -> int:
    """:func:`divergence` in whole nano-RDP, rounded up: what a block is charged."""
    value = divergence(event, alpha)
    rho = event.mechanism.rho
    exact = nano_rdp_up(rho, alpha) if rho is not None else None
    nano = math.ceil(value * NANO)
    return nano if exact is None else min(nano, exact)


def epsilon_of_divergences(values: Floats, delta: float) -> float:
    """Least epsilon that divergences at ``ORDERS`` (that shape) show to hold at ``delta``, rounded up.

    Canonne, Kamath and Steinke (arXiv 2004.00010), proposition 12, as dp-accounting applies it.
    """
    if values.shape != (len(ORDERS),) or not (values >= 0).all():
        raise InvalidParameter(f"There must be {len(ORDERS)} divergences, none of them negative.", field="values")
    epsilon = float(compute_epsilon(ORDERS, values, check_delta(delta))[0])
    return math.nextafter(epsilon * (1 + 1e-12), math.inf) if epsilon > 0 else 0.0


def loss_distribution(event: Event, count: int = 1) -> Any:
    """dp-accounting's privacy loss distribution of ``count`` such releases, a pessimistic estimate.

    Raises:
        InvalidParameter: the event has none, or it would be too large to compute with.
    """
    mechanism = event.mechanism
    if isinstance(mechanism, Zcdp | SubsetGaussian):
        raise InvalidParameter(
            f"A release known as {mechanism.name} has no privacy loss distribution: compose it as rdp.",
            field="composition",
        )
    rho = mechanism.rho if mechanism.rho is not None else getattr(mechanism, "noise_multiplier", 1.0) ** -2 / 2
    if isinstance(mechanism, Gaussian):
        if rho * count > _MAX_PLD_RHO:
            raise _too_loud()
        return _single(Gaussian(mechanism.noise_multiplier / math.sqrt(count) * (1 - 1e-12)))
    if mechanism.pure is None and rho > _MAX_PLD_RHO:
        raise _too_loud()
    times = count * mechanism.cells if isinstance(mechanism, DiscreteGaussian) else count
    single = _single(mechanism)
    return single if times == 1 else single.self_compose(times)


def _too_loud() -> InvalidParameter:
    return InvalidParameter("There is too little noise for a privacy loss distribution: use rdp.", field="composition")


@lru_cache(maxsize=64)
def _single(mechanism: Mechanism) -> Any:
    """One release; of a discrete Gaussian, one of its cells, which are independent of one another."""
    pld = privacy_loss_distribution
    if isinstance(mechanism, Gaussian):
        return pld.from_gaussian_mechanism(mechanism.noise_multiplier)
    if isinstance(mechanism, PoissonGaussian):
        return pld.from_gaussian_mechanism(mechanism.noise_multiplier, sampling_prob=mechanism.rate)
    if isinstance(mechanism, DiscreteGaussian):
        return pld.from_discrete_gaussian_mechanism(mechanism.scale, sensitivity=mechanism.step)
    if isinstance(mechanism, Laplace):
        return pld.from_laplace_mechanism(mechanism.noise_multiplier)
    if isinstance(mechanism, DiscreteLaplace):
        return pld.from_discrete_laplace_mechanism(1 / mechanism.scale, sensitivity=mechanism.sensitivity)
    if isinstance(mechanism, Exponential):
        # Of the exponential mechanism the library knows nothing finer than its pure epsilon.
        return pld.from_privacy_parameters(common.DifferentialPrivacyParameters(mechanism.pure, 0.0))
    if isinstance(mechanism, Approximate):
        claimed = common.DifferentialPrivacyParameters(float(mechanism.epsilon), float(mechanism.delta))
        return pld.from_privacy_parameters(claimed)
    raise InvalidParameter("This release has no privacy loss distribution.", field="composition")
