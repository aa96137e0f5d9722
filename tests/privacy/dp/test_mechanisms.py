"""Noise and selection: the law is what is claimed, the cost is OpenDP's or more, bounds hold for every patient."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fdrouter.errors import InvalidParameter
from privacy.dp.mechanisms import MAX_COUNT, NoisyHistogram, Selection, bounded_sum
from privacy.dp.releases import DiscreteLaplace, Exponential

DRAWS = 5_000
UNLIKELY = 1e-9  # a right law fails once in a thousand million runs


def chance(found: Counter[int], law: dict[int, float]) -> float:
    """How likely draws from ``law`` are to differ from it by as much as these do (Pearson's test, over outcomes of
    which at least ten are expected)."""
    total = sum(found.values())
    likely = {k: p for k, p in law.items() if p * total >= 10}
    statistic = sum((found[k] - p * total) ** 2 / (p * total) for k, p in likely.items())
    return float(stats.chi2.sf(statistic, len(likely)))


def law_of(noise: str, scale: float) -> dict[int, float]:
    x = np.arange(-200, 201)
    weights = np.exp(-(x**2) / (2 * scale**2)) if noise == "discrete_gaussian" else np.exp(-np.abs(x) / scale)
    return dict(zip(x.tolist(), (weights / weights.sum()).tolist(), strict=True))


@pytest.mark.parametrize("noise", ["discrete_gaussian", "discrete_laplace"])
@pytest.mark.parametrize("scale", [0.7, 3.0])
def test_the_noise_has_the_law_that_is_paid_for(noise: Any, scale: float) -> None:
    histogram = NoisyHistogram(noise, scale, "add_remove")
    drawn = histogram.release([7] * DRAWS)
    assert chance(Counter(x - 7 for x in drawn), law_of(noise, scale)) > UNLIKELY
    assert chance(Counter(x - 7 for x in drawn), law_of(noise, scale / 2)) < UNLIKELY, "half the noise would be seen"
    again = histogram.release([7] * DRAWS)
    assert drawn != again, "the noise is fresh"


def test_choices_have_the_law_of_the_exponential_mechanism() -> None:
    pick = Selection(scale=2.0, sensitivity=1)
    scores = [0, 1, 4]
    weights = [math.exp(score / 2.0) for score in scores]
    law = {index: weight / sum(weights) for index, weight in enumerate(weights)}
    assert chance(Counter(pick.choose(scores)[0] for _ in range(DRAWS)), law) > UNLIKELY
    mechanism = pick.event.mechanism
    assert isinstance(mechanism, Exponential) and mechanism.eta == 1.0


def test_several_picks_are_different_and_likely_ones() -> None:
    assert Selection(scale=0.5, picks=3).choose([0, 100, 0, 200, 300]) == [4, 3, 1]


def test_known_costs_of_votes() -> None:
    for adjacency, rho in (("add_remove", 1 / 18), ("swap", 1 / 9)):
        event = NoisyHistogram("discrete_gaussian", 3.0, adjacency).event  # type: ignore[arg-type]
        assert event.mechanism.rho == pytest.approx(rho) and event.adjacency == adjacency
    laplace = NoisyHistogram("discrete_laplace", 4.0, "swap", max_cells=3, max_per_cell=2).event.mechanism
    assert isinstance(laplace, DiscreteLaplace) and laplace.pure == pytest.approx(3.0)
    monotone, plain = Selection(4.0, monotone=True).event.mechanism, Selection(4.0).event.mechanism
    assert monotone.pure == pytest.approx(0.25) and plain.pure == pytest.approx(0.5)


@settings(max_examples=40, deadline=None)
@given(st.floats(4, 500), st.integers(1, 5), st.integers(1, 3), st.sampled_from(["swap", "add_remove"]))
def test_the_event_never_states_less_than_opendp(scale: float, cells: int, step: int, adjacency: Any) -> None:
    for noise in ("discrete_gaussian", "discrete_laplace"):
        NoisyHistogram(noise, scale, adjacency, max_cells=cells, max_per_cell=step)
    Selection(scale, cells, picks=step, adjacency=adjacency)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_error_bands_cover(confidence: float) -> None:
    for noise in ("discrete_gaussian", "discrete_laplace"):
        band = NoisyHistogram(noise, 3.0, "swap").error_band(confidence)
        law = law_of(noise, 3.0)
        assert sum(p for x, p in law.items() if abs(x) <= band) >= confidence
        assert sum(p for x, p in law.items() if abs(x) <= band - 2) < confidence


def test_nobody_in_the_cohort_is_noise_like_any_other() -> None:
    counts = bounded_sum(np.zeros((0, 3), dtype=np.int64), max_cells=1, max_per_cell=1)
    assert counts.tolist() == [0, 0, 0]
    assert len(NoisyHistogram("discrete_laplace", 3.0, "add_remove").release(counts)) == 3


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(-5, 2**62), min_size=4, max_size=4), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_no_patient_moves_more_than_the_bounds(rows: list[list[int]], cells: int, step: int) -> None:
    whole = bounded_sum(rows, max_cells=cells, max_per_cell=step)
    without = bounded_sum(np.array(rows)[1:].reshape(-1, 4), max_cells=cells, max_per_cell=step)
    moved = whole - without
    assert (moved >= 0).all() and moved.max() <= step and (moved > 0).sum() <= cells


def test_a_patient_with_thousands_of_notes_counts_as_one() -> None:
    rows = np.array([[5_000, 3_000, 1], [1, 0, 0]])
    assert bounded_sum(rows, max_cells=1, max_per_cell=1).tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    "rows",
    [[[1.0, 2.0]], [[True, False]], [1, 2], [[]], [[1], [1, 2]], [["1"]], None, np.zeros((2, 0), dtype=int)],
    ids=str,
)
def test_what_is_no_table_of_whole_numbers_is_refused(rows: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        bounded_sum(rows, max_cells=1, max_per_cell=1)
    assert refused.value.details["field"] == "rows"


def test_sums_that_could_overflow_are_refused() -> None:
    many = np.broadcast_to(np.ones((1, 1), dtype=np.int64), (2**34, 1))  # takes no memory
    with pytest.raises(InvalidParameter) as refused:
        bounded_sum(many, max_cells=1, max_per_cell=10**6)
    assert refused.value.details["field"] == "rows"


@pytest.mark.parametrize(
    "counts", [[], [MAX_COUNT + 1], [-MAX_COUNT - 1], [2**63], [1.5], [True], ["1"], [math.nan]], ids=str
)
def test_counts_that_are_none_are_refused(counts: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        NoisyHistogram("discrete_gaussian", 3.0, "swap").release(counts)
    assert refused.value.details["field"] == "counts"


@pytest.mark.parametrize("scores", [[], [2**30 + 1], [0.5], [False, True]], ids=str)
def test_scores_that_are_none_are_refused(scores: Any) -> None:
    with pytest.raises(InvalidParameter):
        Selection(3.0).choose(scores)
    with pytest.raises(InvalidParameter) as refused:
        Selection(3.0, picks=2).choose([1])
    assert refused.value.details["field"] == "picks"


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": "uniform"},
        {"adjacency": "zero"},
        {"max_cells": 0},
        {"max_per_cell": 0},
        {"max_cells": True},
        *({"scale": bad} for bad in (0, -1, math.nan, math.inf, True, "3", 1e-3)),
    ],
    ids=str,
)
def test_bad_parameters_are_refused(changes: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"noise": "discrete_gaussian", "scale": 3.0, "adjacency": "swap"}
    with pytest.raises(InvalidParameter) as refused:
        NoisyHistogram(**{**usual, **changes})
    assert refused.value.details["field"] in changes
    if "scale" in changes:
        with pytest.raises(InvalidParameter):
            Selection(**changes)


def test_a_swap_is_not_monotone() -> None:
    with pytest.raises(InvalidParameter) as refused:
        Selection(3.0, monotone=True, adjacency="swap")
    assert refused.value.details["field"] == "monotone"
