"""Conversions, their rounding, and the filter of a block, against closed forms and published figures."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import (
    NANO,
    block_cap,
    epsilon_of_nano,
    epsilon_of_rho,
    nano_rdp_up,
    rdp_of_rho,
    rho_of_epsilon,
)

DELTA = 1e-5
BAD = [0, -1, -0.0, math.nan, math.inf, -math.inf, 1e308, True, "1", None]


def closed_form(rho: float, delta: float) -> float:
    """min over alpha of [alpha rho + ln(1 - 1/alpha) - ln(delta alpha)/(alpha - 1)], on a fine grid."""
    orders = [1 + 1.002**n / 1000 for n in range(1, 8000)]
    return min(a * rho + math.log1p(-1 / a) - math.log(delta * a) / (a - 1) for a in orders if a < 1e4)


@pytest.mark.parametrize(
    ("epsilon", "rho"),
    [(0.1, 0.00043), (0.5, 0.0085), (1, 0.0306), (3, 0.224), (5, 0.551), (8, 1.230), (10, 1.783)],
)
def test_rho_of_known_epsilons(epsilon: float, rho: float) -> None:
    assert rho_of_epsilon(epsilon, DELTA) == pytest.approx(rho, rel=0.01)


@pytest.mark.parametrize("rho", [0.0005, 0.01, 0.0306, 0.224, 1.23, 5.0])
def test_epsilon_is_never_below_the_closed_form(rho: float) -> None:
    exact = closed_form(rho, DELTA)
    assert exact * (1 - 1e-6) <= epsilon_of_rho(rho, DELTA) <= exact * 1.02


@given(epsilon=st.floats(0.02, 20), delta=st.floats(1e-10, 1e-4))
@settings(max_examples=60, deadline=None)
def test_round_trip_never_exceeds(epsilon: float, delta: float) -> None:
    rho = rho_of_epsilon(epsilon, delta)
    assert epsilon_of_rho(rho, delta) <= epsilon
    assert epsilon_of_rho(rho * (1 + 1e-6), delta) > epsilon * (1 - 1e-6)


def test_composition_adds_rho() -> None:
    """Forty releases of rho are one of 40 rho: the accountant must not forget the count."""
    assert epsilon_of_rho(40 * 0.01, DELTA) > 5 * epsilon_of_rho(0.01, DELTA)


@pytest.mark.parametrize(("epsilon", "alpha", "cap"), [(10, 3.4, 6.06), (3, 7.5, 1.68), (1, 18, 0.55)])
def test_block_cap_figures(epsilon: float, alpha: float, cap: float) -> None:
    found = block_cap(epsilon, DELTA)
    assert found.alpha == alpha
    assert found.cap == pytest.approx(cap, abs=0.005)
    assert epsilon_of_nano(found.nano, found.alpha, DELTA) <= epsilon
    assert epsilon_of_nano(found.nano + NANO // 1000, found.alpha, DELTA) > epsilon


def test_a_block_of_ten_pays_for_about_58_queries_of_one() -> None:
    block = block_cap(10, DELTA)
    assert block.nano // nano_rdp_up(rho_of_epsilon(1, DELTA), block.alpha) == 58


@given(rho=st.floats(1e-12, 100), alpha=st.sampled_from([1.1, 3.4, 7.5, 18.0]))
def test_charges_round_up_to_whole_numbers(rho: float, alpha: float) -> None:
    charge = nano_rdp_up(rho, alpha)
    exact = Fraction(rho) * Fraction(alpha) * NANO
    assert charge - 1 < exact <= charge
    assert rdp_of_rho(rho, alpha) >= float(Fraction(rho) * Fraction(alpha))


@pytest.mark.parametrize("bad", BAD)
def test_bad_values_are_refused(bad: float) -> None:
    with pytest.raises(InvalidParameter) as refused:
        rho_of_epsilon(bad, DELTA)
    assert refused.value.details["field"] == "epsilon"
    with pytest.raises(InvalidParameter):
        block_cap(1.0, bad)
    with pytest.raises(InvalidParameter):
        block_cap(bad, DELTA)


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, True, "1"])
def test_bad_rho_is_refused(bad: float) -> None:
    with pytest.raises(InvalidParameter):
        epsilon_of_rho(bad, DELTA)


def test_nothing_spent_is_nothing() -> None:
    assert epsilon_of_rho(0.0, DELTA) == 0.0
    assert epsilon_of_nano(0, 3.4, DELTA) == 0.0
    assert nano_rdp_up(0.0, 3.4) == 0
