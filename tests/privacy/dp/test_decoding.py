"""The decoding step: exact audit of its cost, its bounds, and its draw."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fdrouter.errors import InvalidParameter
from privacy.dp.decoding import UNITS, TokenMechanism, _largest, log_law, renyi_divergence
from privacy.dp.events import Adjacency
from privacy.dp.text_plan import TextPlan, plan_text

VOCABULARY = 400
Rows = npt.NDArray[np.float64]


def plan_of(adjacency: Adjacency = "swap") -> TextPlan:
    return plan_text(epsilon=5, contexts=64, max_tokens=24, top_k=50, adjacency=adjacency)


def mechanism_of(plan: TextPlan, reserved: frozenset[int] = frozenset()) -> TokenMechanism:
    return TokenMechanism(
        plan.clip, plan.tau, plan.contexts, plan.top_k, plan.sensitivity_units, plan.rho_per_token, reserved
    )


def log_rows(generator: np.random.Generator, count: int, spread: float) -> Rows:
    logits = generator.normal(size=(count, VOCABULARY)) * spread
    rows: Rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return rows


def law(mechanism: TokenMechanism, public: Rows, private: Rows) -> Rows:
    allowed = mechanism.candidates(public)
    total = mechanism.parts(public[allowed], private[:, allowed]).sum(axis=0)
    return log_law(mechanism.scores(public[allowed], total), mechanism.scale)


def worst_pair(public: Rows, rows: Rows, clip: float) -> tuple[Rows, Rows]:
    """A patient who pushes half of the vocabulary up as far as it goes, and one who pushes it down."""
    sign = np.where(np.arange(VOCABULARY) % 2, 1.0, -1.0)
    high, low = rows.copy(), rows.copy()
    high[0], low[0] = public + 10 * clip * sign, public - 10 * clip * sign
    return high, low


@pytest.mark.parametrize("adjacency", ["swap", "add_remove"])
@pytest.mark.parametrize("order", [1.5, 2.0, 3.4, 8.0, 32.0])
def test_exact_divergence_of_every_neighbour_stays_within_the_cost(adjacency: Adjacency, order: float) -> None:
    plan = plan_of(adjacency)
    mechanism = mechanism_of(plan)
    generator = np.random.default_rng(7)
    worst = 0.0
    for trial in range(20):
        public = log_rows(generator, 1, 2.0)[0]
        rows = public + generator.normal(size=(plan.contexts, VOCABULARY)) * (0.5 + trial)
        if adjacency == "swap":
            pairs = [worst_pair(public, rows, plan.clip)]
            other = rows.copy()
            other[0] = log_rows(generator, 1, 5.0)[0]
            pairs.append((rows, other))
        else:
            high, _ = worst_pair(public, rows, plan.clip)
            pairs = [(high, high[1:]), (rows, rows[1:])]
        for one, two in pairs:
            p, q = law(mechanism, public, one), law(mechanism, public, two)
            assert (p - q).max() - (p - q).min() <= math.sqrt(8 * plan.rho_per_token) * (1 + 1e-9)
            worst = max(worst, renyi_divergence(p, q, order), renyi_divergence(q, p, order))
    assert worst <= order * plan.rho_per_token
    # The worst neighbours really use the allowance: a bound that nothing comes near would hide a mistake.
    assert order > 8 or worst >= 0.5 * order * plan.rho_per_token


def test_without_clipping_the_audit_fails() -> None:
    plan = plan_of()
    mechanism = mechanism_of(plan)
    generator = np.random.default_rng(3)
    public = log_rows(generator, 1, 2.0)[0]
    rows = np.tile(public, (plan.contexts, 1))
    high, low = worst_pair(public, rows, plan.clip)
    allowed = mechanism.candidates(public)

    def unclipped(private: Rows) -> Rows:
        total = np.rint((private - public)[:, allowed] * (UNITS / plan.clip)).sum(axis=0).astype(np.int64)
        return log_law(mechanism.scores(public[allowed], total), mechanism.scale)

    assert renyi_divergence(unclipped(high), unclipped(low), 2.0) > 2 * plan.rho_per_token


@given(
    hnp.arrays(np.float64, (3, 20), elements=st.floats(allow_nan=True, allow_infinity=True)),
    hnp.arrays(np.float64, 20, elements=st.floats(-60, 0)),
)
def test_no_row_moves_a_score_by_more_than_the_units(private: Rows, public: Rows) -> None:
    mechanism = mechanism_of(plan_of())
    parts = mechanism.parts(public, private)
    assert parts.dtype == np.int64
    assert np.abs(parts).max() <= UNITS
    assert (parts[np.isnan(private)] == 0).all()
    inside = np.isfinite(private) & (np.abs(private - public) <= mechanism.clip)
    exact = (private - public)[inside] * UNITS / mechanism.clip
    assert (np.abs(parts[inside] - exact) <= 0.5 + 1e-6).all()


def test_candidates_come_from_the_public_row_and_leave_reserved_out() -> None:
    plan = plan_of()
    public = log_rows(np.random.default_rng(1), 1, 3.0)[0]
    best = int(public.argmax())
    found = mechanism_of(plan).candidates(public)
    kth = np.sort(public)[-plan.top_k]
    assert set(found) == set(np.flatnonzero(public >= kth - 2 * plan.clip / plan.contexts))
    assert best in found
    without = mechanism_of(plan, frozenset({best, 10**6})).candidates(public)
    assert best not in without
    assert without.size >= plan.top_k


@pytest.mark.parametrize("size", [201, 500, 12_799, 12_800, 49_152])
@pytest.mark.parametrize("shape", ["spread", "equal", "ascending", "mostly impossible"])
def test_the_kth_largest_of_a_long_row_is_found_without_ordering_it(size: int, shape: str) -> None:
    row = np.random.default_rng(size).normal(size=size)
    if shape == "equal":
        row = np.rint(row)
    elif shape == "ascending":
        row.sort()
    elif shape == "mostly impossible":
        row[: size - 50] = -np.inf
    for k in (1, 2, 200):
        assert _largest(row, k) == np.sort(row)[-k]


def test_unusable_public_rows_and_too_many_patients_are_refused() -> None:
    plan = plan_of()
    mechanism = mechanism_of(plan)
    public = log_rows(np.random.default_rng(1), 1, 3.0)[0]
    with pytest.raises(ValueError, match="public"):
        mechanism.candidates(np.where(np.arange(VOCABULARY) == 3, np.nan, public))
    with pytest.raises(ValueError, match="candidate"):
        mechanism.candidates(np.full(VOCABULARY, -np.inf))
    with pytest.raises(ValueError, match="slots"):
        mechanism.parts(public, np.tile(public, (plan.contexts + 1, 1)))


def test_empty_slots_count_as_public_rows() -> None:
    plan = plan_of()
    mechanism = mechanism_of(plan)
    generator = np.random.default_rng(5)
    public = log_rows(generator, 1, 2.0)[0]
    rows = log_rows(generator, 10, 2.0)
    filled = np.vstack([rows, np.tile(public, (plan.contexts - 10, 1))])
    assert (law(mechanism, public, rows) == law(mechanism, public, filled)).all()


def test_unanimous_patients_are_heard_and_one_is_not() -> None:
    plan = plan_of()
    mechanism = mechanism_of(plan)
    public = log_rows(np.random.default_rng(2), 1, 1.0)[0]
    token = int(mechanism.candidates(public)[0])
    loud = public - 20.0
    loud[token] = -0.001
    unanimous = np.tile(loud, (plan.contexts, 1))
    one = np.vstack([loud, np.tile(public, (plan.contexts - 1, 1))])
    index = int(np.flatnonzero(mechanism.candidates(public) == token)[0])
    base = math.exp(law(mechanism, public, public[None])[index])
    assert math.exp(law(mechanism, public, unanimous)[index]) > 0.9
    assert math.exp(law(mechanism, public, one)[index]) < 2 * base


def test_draws_follow_the_exact_law() -> None:
    plan = plan_of()
    mechanism = TokenMechanism(plan.clip, plan.tau, plan.contexts, 6, 2, plan.rho_per_token)
    public = log_rows(np.random.default_rng(11), 1, 1.0)[0]
    allowed = mechanism.candidates(public)
    scores = mechanism.scores(public[allowed], np.zeros(allowed.size, dtype=np.int64))
    expected = np.exp(log_law(scores, mechanism.scale))
    count = 4000
    seen = Counter(mechanism.draw(scores) for _ in range(count))
    found = np.array([seen[i] for i in range(allowed.size)]) / count
    assert np.abs(found - expected).max() < 6 * math.sqrt(0.25 / count)


def test_a_step_gives_a_candidate() -> None:
    plan = plan_of()
    mechanism = mechanism_of(plan)
    generator = np.random.default_rng(13)
    public, rows = log_rows(generator, 1, 2.0)[0], log_rows(generator, plan.contexts, 2.0)
    tokens = {mechanism.step(public, rows) for _ in range(30)}
    assert tokens <= set(mechanism.candidates(public).tolist())
    assert len(tokens) > 1  # a fixed seed, or no noise, would repeat itself


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_parameters_without_a_cost_are_refused(bad: float) -> None:
    plan = plan_of()
    with pytest.raises(InvalidParameter):
        TokenMechanism(bad, plan.tau, plan.contexts, plan.top_k, 2, plan.rho_per_token)
    with pytest.raises(InvalidParameter):
        TokenMechanism(plan.clip, bad, plan.contexts, plan.top_k, 2, plan.rho_per_token)
