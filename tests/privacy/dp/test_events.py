"""Events: their record is read back strictly, and their curves are never below the truth."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from dp_accounting import dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import BLOCK_ORDERS, NANO
from privacy.dp.calibration import of_text_plan
from privacy.dp.curves import (
    ORDERS,
    divergence,
    divergences,
    epsilon_of_divergences,
    loss_distribution,
    nano_divergence,
)
from privacy.dp.events import Event, claim, from_json, of_rho
from privacy.dp.releases import (
    Approximate,
    DiscreteGaussian,
    DiscreteLaplace,
    Exponential,
    Gaussian,
    Laplace,
    PoissonGaussian,
    SubsetGaussian,
    Zcdp,
)
from privacy.dp.text_plan import plan_text

EVENTS = [
    Event(Gaussian(1.1)),
    Event(DiscreteGaussian(3.0, cells=2, step=4), adjacency="swap"),
    Event(Laplace(2.0), unit="note"),
    Event(DiscreteLaplace(2.0, sensitivity=3)),
    Event(Exponential(0.3), adjacency="swap"),
    Event(Zcdp(0.1)),
    Event(Approximate(0.5, 1e-6), unit="user"),
    Event(PoissonGaussian(1.1, 0.01)),
    Event(SubsetGaussian(1.1, 1000, 10), adjacency="swap"),
]
BAD = [math.nan, math.inf, -math.inf, -1, True, "1", None, 1e300]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.mechanism.name)
def test_the_record_gives_the_event_back(event: Event) -> None:
    stored = json.loads(json.dumps(event.to_json()))
    assert from_json(stored) == event
    assert stored["version"] == 1 and stored["unit"] == event.unit and stored["adjacency"] == event.adjacency
    assert isinstance(event.dp_event, dp_event.DpEvent)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.mechanism.name)
@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"mechanism": "invented"},
        {"mechanism": ["gaussian"]},
        {"unit": "household"},
        {"unit": None},
        {"adjacency": "zero"},
        {"parameters": {}},
        {"parameters": []},
        {"count": 2},
    ],
    ids=str,
)
def test_an_altered_record_is_refused(event: Event, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter) as refused:
        from_json({**event.to_json(), **change})
    assert refused.value.details["field"]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.mechanism.name)
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_no_parameter_takes_what_is_no_number(event: Event, bad: Any) -> None:
    stored = event.to_json()
    for name in stored["parameters"]:
        with pytest.raises(InvalidParameter):
            from_json({**stored, "parameters": {**stored["parameters"], name: bad}})


@pytest.mark.parametrize("stored", [None, [], "gaussian", 7])
def test_something_else_is_no_record(stored: Any) -> None:
    with pytest.raises(InvalidParameter):
        from_json(stored)


def test_a_sampling_scheme_says_nothing_about_the_other_adjacency() -> None:
    for mechanism, adjacency in ((PoissonGaussian(1.1, 0.01), "swap"), (SubsetGaussian(1.1, 100, 1), "add_remove")):
        with pytest.raises(InvalidParameter) as refused:
            Event(mechanism, adjacency=adjacency)  # type: ignore[arg-type]
        assert refused.value.details["field"] == "adjacency"


@pytest.mark.parametrize(("population", "sample"), [(0, 0), (10, 0), (10, 11), (-1, 1)])
def test_a_sample_of_nobody_is_refused(population: int, sample: int) -> None:
    with pytest.raises(InvalidParameter):
        SubsetGaussian(1.1, population, sample)


def test_equal_events_have_equal_keys() -> None:
    assert len({event.key for event in EVENTS}) == len(EVENTS)
    assert Event(Gaussian(1.1)).key == EVENTS[0].key


# --- curves -------------------------------------------------------------------------------------------------------
def test_divergences_of_known_mechanisms() -> None:
    orders = np.array(ORDERS)
    np.testing.assert_allclose(divergences(Event(Gaussian(2.0))), orders / 8, rtol=1e-8)
    np.testing.assert_allclose(divergences(Event(DiscreteGaussian(2.0, cells=2))), orders / 4, rtol=1e-8)
    exponential = divergences(Event(Exponential(0.3)))
    assert (exponential <= np.minimum(orders * 0.3**2 / 8, 0.3) * (1 + 1e-8)).all()


def test_discrete_laplace_noise_is_no_smoother_than_randomised_response() -> None:
    """With sensitivity 1 the two are the same; continuous Laplace noise lies below: its curve would be too small."""
    epsilon, found = 0.5, divergences(Event(DiscreteLaplace(2.0)))
    chance = 1 / (1 + math.exp(-epsilon))
    for order, value in zip(ORDERS, found, strict=True):
        if order > 100:
            continue
        both = chance**order * (1 - chance) ** (1 - order) + (1 - chance) ** order * chance ** (1 - order)
        assert value >= math.log(both) / (order - 1)
    assert (divergences(Event(Laplace(2.0))) < found).all()


@pytest.mark.parametrize("event", [*EVENTS[:6], *EVENTS[7:]], ids=lambda event: event.mechanism.name)
def test_every_curve_rises_with_the_order(event: Event) -> None:
    values = divergences(event)
    assert (np.diff(values[np.isfinite(values)]) >= -1e-12).all() and (values > 0).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(BLOCK_ORDERS), st.floats(1e-3, 3))
def test_a_block_is_charged_what_the_event_costs_and_no_less(alpha: float, eta: float) -> None:
    event = Event(Exponential(eta))
    charged = Fraction(nano_divergence(event, alpha), NANO)
    # The worst pair that is eta-DP, and eta^2 / 8 of zCDP: the smaller of the two bounds is charged.
    bound = min(Fraction(eta) ** 2 / 8 * Fraction(alpha), Fraction(eta))
    assert charged <= bound * Fraction(1_000_001, 1_000_000) + Fraction(2, NANO)
    p, q = 1 / (1 + math.exp(-eta / 2)), 1 / (1 + math.exp(eta / 2))
    true = math.log(p**alpha * q ** (1 - alpha) + q**alpha * p ** (1 - alpha)) / (alpha - 1) if alpha < 100 else 0.0
    assert charged >= Fraction(true) * Fraction(999_999_999, 1_000_000_000)


@pytest.mark.parametrize("alpha", [1.0, 1.05, 2.05, 3.456, 300, 1e6, math.nan, math.inf, True, -2, 0])
def test_an_order_off_the_grid_is_refused(alpha: float) -> None:
    for cost in (divergence, nano_divergence):
        with pytest.raises(InvalidParameter) as refused:
            cost(EVENTS[0], alpha)
        assert refused.value.details["field"] == "alpha"


def test_a_claim_has_no_divergence() -> None:
    with pytest.raises(InvalidParameter) as refused:
        divergences(claim(1.0, 1e-6))
    assert refused.value.details["field"] == "composition"
    assert np.isfinite(divergences(claim(1.0))).all()


@pytest.mark.parametrize("values", [np.zeros(3), np.full(len(ORDERS), -1.0), np.full(len(ORDERS), math.nan)])
def test_bad_divergences_are_refused(values: Any) -> None:
    with pytest.raises(InvalidParameter):
        epsilon_of_divergences(values, 1e-5)


@pytest.mark.parametrize("event", [of_rho(0.1), EVENTS[-1], Event(Gaussian(0.06)), Event(DiscreteGaussian(0.06))])
def test_what_has_no_loss_distribution_says_so(event: Event) -> None:
    with pytest.raises(InvalidParameter) as refused:
        loss_distribution(event)
    assert refused.value.details["field"] == "composition"


def test_a_text_plan_is_as_many_picks_as_it_has_tokens() -> None:
    plan = plan_text(epsilon=3.0, contexts=96, max_tokens=24)
    event, count = of_text_plan(plan.to_event())
    assert (count, event.adjacency, event.unit) == (24, "swap", "patient")
    rho = event.mechanism.rho
    assert rho is not None and plan.rho <= rho * count <= plan.rho * (1 + 1e-9)
    with pytest.raises(InvalidParameter):
        of_text_plan({**plan.to_event(), "clip": plan.clip / 2})
