"""Composition: never below the exact figure, whatever is composed in whatever order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdrouter.errors import InvalidParameter
from privacy.dp.composition import Composition, composed, epsilon_of
from privacy.dp.events import Event, claim, of_rho
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
from tests.privacy.dp import exact

DELTA = 1e-5
WAYS: tuple[Composition, ...] = ("basic", "advanced", "rdp", "pld", "zcdp")
EXACT: list[tuple[Event, Callable[[int, float], float]]] = [
    (Event(Gaussian(2.0)), lambda n, e: exact.gaussian(2.0, n, e)),
    (Event(Gaussian(20.0)), lambda n, e: exact.gaussian(20.0, n, e)),
    (Event(DiscreteGaussian(0.6)), lambda n, e: exact.discrete_gaussian(0.6, n, e)),
    (Event(DiscreteGaussian(3.0, cells=2)), lambda n, e: exact.discrete_gaussian(3.0, 2 * n, e)),
    (Event(DiscreteLaplace(10.0)), lambda n, e: exact.pure(0.1, n, e)),
    (Event(DiscreteLaplace(2.0)), lambda n, e: exact.pure(0.5, n, e)),
    (Event(Exponential(0.3)), lambda n, e: exact.exponential(0.3, n, e)),
    (Event(Exponential(2.0)), lambda n, e: exact.exponential(2.0, n, e)),
    (claim(0.2), lambda n, e: exact.pure(0.2, n, e)),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize(("event", "delta_of"), EXACT, ids=[event.key[16:60] for event, _ in EXACT])
def test_never_below_the_exact_figure(
    event: Event, delta_of: Callable[[int, float], float], count: int, way: Composition
) -> None:
    epsilon = composed([(event, count)], DELTA, way)
    assert delta_of(count, epsilon) <= DELTA * (1 + 1e-9)


@pytest.mark.parametrize("delta", [1e-3, 1e-8])
def test_loss_distributions_are_close_to_exact(delta: float) -> None:
    for event, delta_of in EXACT[:6]:
        epsilon = composed([(event, 7)], delta, "pld")
        assert delta_of(7, epsilon * 0.98 - 0.002) > delta, "an answer that is far too large would pass everything else"


@pytest.mark.parametrize("way", ["basic", "advanced", "pld"])
@pytest.mark.parametrize("count", [1, 5, 50])
def test_claims_with_deltas(way: Composition, count: int) -> None:
    epsilon = composed([(claim(0.1, 1e-8), count)], DELTA, way)
    assert exact.pure(0.1, count, epsilon, 1e-8) <= DELTA * (1 + 1e-9)
    assert epsilon <= 0.1 * count * (1 + 1e-6)


def test_one_laplace_release() -> None:
    for way in WAYS:
        epsilon = composed([(Event(Laplace(2.0)), 1)], DELTA, way)
        assert exact.laplace(0.5, epsilon) <= DELTA


@pytest.mark.parametrize("way", ["basic", "advanced", "pld"])
def test_unequal_deltas_add_up(way: Composition) -> None:
    parts = [(claim(0.3, 4e-6), 1), (claim(0.2, 5e-6), 1)]
    epsilon = composed(parts, DELTA, way)
    assert 0.3 < epsilon <= 0.5 * (1 + 1e-3)
    with pytest.raises(InvalidParameter) as refused:
        composed(parts, 8.9e-6, way)
    assert refused.value.details["field"] == "delta"


def test_releases_with_a_curve_share_what_claims_leave_of_delta() -> None:
    parts = [(claim(0.3, 4e-6), 1), (Event(Gaussian(5.0)), 3)]
    share = (DELTA - 4e-6) / 3
    assert composed(parts, DELTA, "basic") == pytest.approx(0.3 + 3 * epsilon_of(Event(Gaussian(5.0)), share), rel=1e-6)


def test_advanced_beats_the_plain_sum_only_where_there_are_many() -> None:
    assert composed([(claim(1.0), 5)], DELTA, "advanced") == composed([(claim(1.0), 5)], DELTA, "basic")
    mixed = [(claim(0.01), 2000), (claim(0.011), 2000)]
    assert composed(mixed, DELTA, "advanced") < 0.2 * composed(mixed, DELTA, "basic")
    assert exact.pure(0.01, 4000, composed(mixed, DELTA, "advanced")) <= DELTA


events = st.one_of(
    st.floats(0.8, 50).map(lambda x: Event(Gaussian(x))),
    st.floats(0.8, 50).map(lambda x: Event(DiscreteGaussian(x, cells=2))),
    st.floats(0.7, 50).map(lambda x: Event(DiscreteLaplace(x))),
    st.floats(0.7, 50).map(lambda x: Event(Laplace(x))),
    st.floats(0.01, 2).map(lambda x: Event(Exponential(x))),
    st.floats(0.01, 2).map(claim),
)


@settings(max_examples=5, deadline=None)
@given(st.floats(1.5, 30), st.integers(1, 20), st.sampled_from([1e-3, 1e-5, 1e-8]))
def test_renyi_is_never_below_the_loss_distribution(noise: float, count: int, delta: float) -> None:
    for event in (Event(Gaussian(noise)), Event(DiscreteGaussian(noise)), Event(DiscreteLaplace(noise))):
        slack = 1e-3 * count  # a distribution is held in steps of 1e-4
        rdp = composed([(event, count)], delta, "rdp")
        assert rdp >= composed([(event, count)], delta, "pld") - slack


@settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(events, st.integers(1, 5)), min_size=2, max_size=4), st.randoms())
def test_the_order_does_not_matter_and_more_costs_more(parts: list[tuple[Event, int]], shuffle: Any) -> None:
    mixed = list(itertools.chain.from_iterable([(event, 1)] * count for event, count in parts))
    shuffle.shuffle(mixed)
    for way in ("basic", "advanced", "rdp", "zcdp"):
        whole = composed(parts, DELTA, way)
        assert composed(mixed, DELTA, way) == whole, way
        assert composed(parts[1:], DELTA, way) <= whole * (1 + 1e-9)
        assert composed(parts, DELTA / 10, way) >= whole * (1 - 1e-9)


@settings(max_examples=10, deadline=None)
@given(events, st.integers(2, 20))
def test_less_noise_and_more_releases_cost_more(event: Event, count: int) -> None:
    for way in ("basic", "advanced", "rdp", "zcdp"):
        once = composed([(event, 1)], DELTA, way)
        assert once <= composed([(event, count)], DELTA, way) <= 1e4


def test_sampled_gaussians() -> None:
    poisson, subset = Event(PoissonGaussian(1.1, 0.01)), Event(SubsetGaussian(1.1, 1000, 10), adjacency="swap")
    rdp, pld = composed([(poisson, 20)], DELTA, "rdp"), composed([(poisson, 20)], DELTA, "pld")
    assert pld <= rdp < composed([(Event(Gaussian(1.1)), 20)], DELTA, "rdp") / 10
    assert 0 < composed([(subset, 100)], DELTA, "rdp") < 5
    for way, event in (("zcdp", poisson), ("zcdp", subset), ("pld", subset)):
        with pytest.raises(InvalidParameter) as refused:
            composed([(event, 1)], DELTA, way)  # type: ignore[arg-type]
        assert refused.value.details["field"] == "composition"


@pytest.mark.parametrize(("way", "event"), [("rdp", claim(1, 1e-9)), ("zcdp", claim(1, 1e-9)), ("pld", of_rho(0.1))])
def test_what_a_way_cannot_take_is_refused(way: Composition, event: Event) -> None:
    with pytest.raises(InvalidParameter) as refused:
        composed([(event, 1)], DELTA, way)
    assert refused.value.details["field"] == "composition"


def test_epsilons_of_different_kinds_do_not_add_up() -> None:
    patient, user, swap = claim(0.1), claim(0.1, unit="user"), claim(0.1, adjacency="swap")
    for way in WAYS:
        for other, field in ((user, "unit"), (swap, "adjacency")):
            with pytest.raises(InvalidParameter) as refused:
                composed([(patient, 1), (other, 1)], DELTA, way)
            assert refused.value.details["field"] == field


@pytest.mark.parametrize("delta", [0, -1e-5, 0.6, math.nan, math.inf, True, "1e-5", None])
def test_bad_deltas_are_refused(delta: Any) -> None:
    for way in WAYS:
        with pytest.raises(InvalidParameter) as refused:
            composed([(Event(Gaussian(1.0)), 1)], delta, way)
        assert refused.value.details["field"] == "delta"


def test_a_delta_below_the_accuracy_of_a_distribution_is_refused() -> None:
    with pytest.raises(InvalidParameter):
        composed([(Event(Laplace(1.0)), 100)], 1e-13, "pld")


def test_nothing_costs_nothing() -> None:
    assert all(composed([], DELTA, way) == 0.0 for way in WAYS)
    assert composed([(Event(Zcdp(0.0)), 3)], DELTA, "zcdp") == 0.0
    assert composed([(Event(Approximate(0.0)), 3)], DELTA, "basic") == 0.0


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InvalidParameter) as refused:
        composed([], DELTA, "moments")  # type: ignore[arg-type]
    assert refused.value.details["field"] == "composition"
