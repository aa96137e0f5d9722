"""What this code takes from dp-accounting 0.6.0 and OpenDP, held fast: another version has to pass here first."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.pld import PLDAccountant, accountant, common
from dp_accounting.rdp import RdpAccountant

from privacy.dp.accounting import epsilon_of_rho, rho_of_epsilon
from tests.privacy.dp import exact

EVENTS = [
    dp_event.GaussianDpEvent(2.0),
    dp_event.LaplaceDpEvent(3.0),
    dp_event.ZCDpEvent(0.3**2 / 8),
    dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(1.5)),
]
CLOSED: list[tuple[Any, Callable[[float], float]]] = [
    (dp_event.GaussianDpEvent(2.0), lambda a: a / 8),
    (dp_event.ZCDpEvent(0.1), lambda a: a / 10),
    (
        dp_event.LaplaceDpEvent(2.0),  # Mironov, arXiv 1702.07476, proposition 6
        lambda a: (
            math.log(a / (2 * a - 1) * math.exp((a - 1) / 2) + (a - 1) / (2 * a - 1) * math.exp(-a / 2)) / (a - 1)
        ),
    ),
]
names = [type(event).__name__ for event in EVENTS]


def test_the_pinned_version() -> None:
    assert version("dp-accounting") == "0.6.0"
    assert version("opendp").startswith("0.16.")


@pytest.mark.parametrize("event", EVENTS, ids=names)
def test_a_count_is_a_loop(event: Any) -> None:
    """Later versions have an exponential event that forgets the count: 40 releases were reported as one."""
    orders = [2, 3, 5, 8, 16, 32, 64, 128]
    counted, looped = RdpAccountant(orders).compose(event, 40), RdpAccountant(orders)
    nested = RdpAccountant(orders).compose(dp_event.SelfComposedDpEvent(event, 40))
    for _ in range(40):
        looped.compose(event)
    assert counted.get_epsilon(1e-5) == pytest.approx(looped.get_epsilon(1e-5), rel=1e-9)
    assert nested.get_epsilon(1e-5) == pytest.approx(looped.get_epsilon(1e-5), rel=1e-9)
    assert counted.get_epsilon(1e-5) > 2 * RdpAccountant(orders).compose(event).get_epsilon(1e-5)


@pytest.mark.parametrize("event", [EVENTS[0], EVENTS[1]], ids=names[:2])
def test_a_count_is_a_loop_for_loss_distributions(event: Any) -> None:
    counted, looped = PLDAccountant().compose(event, 3), PLDAccountant()
    for _ in range(3):
        looped.compose(event)
    assert counted.get_epsilon(1e-5) == pytest.approx(looped.get_epsilon(1e-5), rel=1e-3)


def test_forty_picks_of_the_exponential_mechanism() -> None:
    assert epsilon_of_rho(40 * 0.3**2 / 8, 1e-5) == pytest.approx(4.45, abs=0.005)


def test_closed_forms_of_divergence() -> None:
    orders = [1.5, 2.0, 8.0, 32.0]
    for event, form in CLOSED:
        found = RdpAccountant(orders=orders).compose(event).rdp
        np.testing.assert_allclose(found, [form(a) for a in orders], rtol=1e-12)


def test_gaussian_noise_is_what_the_closed_form_says() -> None:
    epsilon = PLDAccountant().compose(dp_event.GaussianDpEvent(2.0)).get_epsilon(1e-5)
    assert exact.gaussian(2.0, 1, epsilon) <= 1e-5
    assert exact.gaussian(2.0, 1, epsilon - 1e-3) > 1e-5


def test_the_relation_does_not_double_a_multiplier() -> None:
    """The library leaves it to its caller that a swap moves a clipped sum by twice the clip: events here are relative
    to the sensitivity under their own adjacency."""
    swap = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    event = dp_event.GaussianDpEvent(2.0)
    assert swap.compose(event).get_epsilon(1e-5) == RdpAccountant().compose(event).get_epsilon(1e-5)


def test_optimal_composition_is_optimal() -> None:
    found = accountant.advanced_composition(common.DifferentialPrivacyParameters(0.1, 1e-8), 100, 1e-5)
    assert exact.pure(0.1, 100, found, 1e-8) <= 1e-5 < exact.pure(0.1, 100, found - 0.2, 1e-8)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1, 3, 5, 8, 10])
def test_known_rhos(epsilon: float) -> None:
    known = {0.1: 0.00043, 0.5: 0.0085, 1: 0.0306, 3: 0.224, 5: 0.551, 8: 1.230, 10: 1.783}
    assert rho_of_epsilon(epsilon, 1e-5) == pytest.approx(known[epsilon], rel=0.01)


@pytest.mark.parametrize("sigma", [5.7, 2.1])
def test_known_noise_of_votes(sigma: float) -> None:
    """One vote replaced costs 1 / sigma^2: epsilon 1 needs 5.7, epsilon 3 needs 2.1."""
    assert epsilon_of_rho(1 / sigma**2, 1e-5) == pytest.approx({5.7: 1, 2.1: 3}[sigma], rel=0.02)
