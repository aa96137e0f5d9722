"""Exact Renyi audit of every step of decoded answers: no pair of neighbours, however made, is above the charge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.dp import audit, mutants, renyi
from benchmarks.dp.renyi import Floats, Neighbours
from privacy.dp.decoding import TokenMechanism
from privacy.dp.events import Adjacency
from privacy.dp.text_plan import TextPlan, plan_text
from tests.privacy.proof import toy

VOCABULARY = 220
FEW_ORDERS = (1.5, 3.4, 32.0)
BOTH = pytest.mark.parametrize("adjacency", ["swap", "add_remove"])


def plan_of(adjacency: Adjacency, **changes: Any) -> TextPlan:
    terms: dict[str, Any] = {"epsilon": 5, "contexts": 64, "max_tokens": 12, "top_k": 40, **changes}
    return plan_text(adjacency=adjacency, **terms)


def mechanism_of(plan: TextPlan) -> TokenMechanism:
    return TokenMechanism(plan.clip, plan.tau, plan.contexts, plan.top_k, plan.sensitivity_units, plan.rho_per_token)


def steps(plan: TextPlan, seed: int, patients: int | None = None) -> Iterator[tuple[Floats, Floats]]:
    """Public and private rows of each step of one answer, along the tokens that were really drawn."""
    model, mechanism = toy.Model(VOCABULARY, seed), mechanism_of(plan)
    topics = [number % 3 for number in range(plan.contexts if patients is None else patients)]
    drawn = toy.answer(model, mechanism, topics, plan.max_tokens)
    for last in [0, *drawn[:-1]]:
        yield model.public(last), model.private(last, topics)


def neighbours(mechanism: TokenMechanism, public: Floats, rows: Floats, seed: int) -> Iterator[Neighbours]:
    """Every patient of the group taken away or replaced by another's record, and one by whatever an attacker sends."""
    draw = np.random.default_rng(seed)
    secret = int(mechanism.candidates(public)[-1])
    hostile = renyi.hostile_rows(public, mechanism.clip, secret)
    if mechanism.reach == 1:
        for patient in range(len(rows)):
            yield renyi.replaced(public, rows, patient, None, f"patient {patient} leaves")
        for name, row in hostile.items():
            shouted = rows.copy()
            shouted[0] = row
            yield renyi.replaced(public, shouted, 0, None, f"{name} leaves")
        return
    for patient in range(len(rows)):
        other = rows[int(draw.integers(len(rows)))] + draw.normal(size=public.size) * 3
        yield renyi.replaced(public, rows, patient, other, f"patient {patient} replaced")
    for (one, first), (two, second) in itertools.combinations(hostile.items(), 2):
        shouted = rows.copy()
        shouted[0] = first
        yield renyi.replaced(public, shouted, 0, second, f"{one} for {two}")


@BOTH
@pytest.mark.parametrize("patients", [None, 3, 1])
def test_no_neighbour_of_any_step_is_above_the_charge(adjacency: Adjacency, patients: int | None) -> None:
    plan = plan_of(adjacency)
    mechanism = mechanism_of(plan)
    seen = 0
    for number, (public, rows) in enumerate(steps(plan, seed=5, patients=patients)):
        pairs = [*neighbours(mechanism, public, rows, number)]
        assert renyi.violation(mechanism, pairs, FEW_ORDERS) is None, f"step {number}"
        seen += len(pairs)
    assert seen >= plan.max_tokens * 8


@BOTH
def test_the_worst_neighbour_of_every_step_comes_close_to_the_charge_and_no_closer(adjacency: Adjacency) -> None:
    """A search that stayed far below would find no mistake either."""
    plan = plan_of(adjacency)
    mechanism = mechanism_of(plan)
    orders = (1.5, 3.4, 8.0)
    for public, _ in steps(plan, seed=11):
        best = public == public.argmax()
        sets = [np.arange(VOCABULARY) % 2 == 0, best]
        pairs = [pair for pushed in sets for pair in renyi.cornered(mechanism, public, pushed)]
        assert renyi.violation(mechanism, pairs) is None
        for found in renyi.worst(mechanism, pairs, orders):
            limit = renyi.supremum(renyi.eta_of(mechanism), found.order)
            assert 0.9 * limit <= found.divergence <= limit * (1 + 1e-6) <= found.claim * (1 + 1e-6)


@BOTH
@pytest.mark.parametrize("order", [1.5, 3.4])
def test_ascent_from_ordinary_records_ends_near_the_charge_and_never_above(adjacency: Adjacency, order: float) -> None:
    plan = plan_of(adjacency)
    mechanism = mechanism_of(plan)
    model = toy.Model(VOCABULARY, 3, spread=0.5)
    public, rows = model.public(0), model.private(0, [number % 40 for number in range(plan.contexts)])
    start = renyi.replaced(public, rows, 0, rows[1] if adjacency == "swap" else None, "two records")
    end = renyi.ascended(mechanism, start, order, rounds=400)
    before, after = (renyi.worst(mechanism, [pair], [order])[0].ratio for pair in (start, end))
    assert before < 0.6 < 0.9 < after <= 1
    assert renyi.violation(mechanism, [end]) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 1, "contexts": 128, "max_tokens": 4},
        {"epsilon": 10, "contexts": 24, "max_tokens": 4, "tau": 2.0},
        {"epsilon": 10, "contexts": 128, "max_tokens": 48, "tau": 0.1, "top_k": 200},
    ],
    ids=str,
)
@BOTH
def test_other_plans_are_charged_enough_too(adjacency: Adjacency, changes: dict[str, Any]) -> None:
    plan = plan_of(adjacency, **changes)
    mechanism = mechanism_of(plan)
    public = toy.Model(VOCABULARY, 2).public(1)
    pairs = [*renyi.cornered(mechanism, public, np.arange(VOCABULARY) % 3 == 0)]
    assert renyi.violation(mechanism, pairs) is None
    assert renyi.worst(mechanism, pairs, [1.5])[0].ratio > 0.8


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, (5, 12), elements=st.floats(allow_nan=True, allow_infinity=True)),
    hnp.arrays(np.float64, 12, elements=st.floats(allow_nan=True, allow_infinity=True)),
    hnp.arrays(np.float64, 12, elements=st.floats(-30, 0)),
    st.sampled_from(["swap", "add_remove"]),
)
def test_no_row_of_any_numbers_is_above_the_charge(
    rows: Floats, other: Floats, public: Floats, adjacency: Adjacency
) -> None:
    mechanism = mechanism_of(plan_of(adjacency))
    pair = renyi.replaced(public, rows, 0, other if adjacency == "swap" else None, "any numbers")
    assert renyi.violation(mechanism, [pair], FEW_ORDERS) is None


@BOTH
def test_a_whole_answer_from_end_to_end_costs_no_more_than_its_tokens(adjacency: Adjacency) -> None:
    """All answers of three tokens over a small vocabulary: their law, for two neighbouring groups, is written out."""
    plan = plan_of(adjacency, top_k=10, contexts=24, max_tokens=4, epsilon=10)
    mechanism, tokens = mechanism_of(plan), 3
    model = toy.Model(5, seed=8, spread=0.3)

    def law(topics: list[int], hostile: bool) -> Floats:
        chances = []
        for sequence in itertools.product(range(5), repeat=tokens):
            last, total = 0, 0.0
            for token in sequence:
                public, rows = model.public(last), model.private(last, topics)
                if hostile:  # a record that pulls every step the same way
                    rows[0] = public + np.where(np.arange(5) < 2, 1, -1) * 100.0
                total += renyi.law(mechanism, public, rows)[token]
                last = token
            chances.append(total)
        assert math.isclose(np.exp(chances).sum(), 1.0, rel_tol=1e-9)
        return np.array(chances)

    topics = [number % 2 for number in range(plan.contexts)]
    one, other = law(topics, True), law(topics if adjacency == "swap" else topics[1:], False)
    if adjacency == "swap":
        assert not np.allclose(one, other, atol=1e-3)
    for order in renyi.ORDERS:
        assert renyi.either_way(one, other, order) <= order * plan.rho_of(tokens) * (1 + 1e-9)


@BOTH
def test_the_table_of_the_audit_is_within_its_claims(adjacency: Adjacency) -> None:
    found = audit.searched(mutants.made(TokenMechanism, adjacency))
    assert [line.order for line in found] == list(renyi.ORDERS)
    assert all(line.ratio <= 1 for line in found)
    assert found[0].ratio > 0.99


def test_divergences_are_what_a_calculation_by_hand_says() -> None:
    p, q = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    assert renyi.divergence(p, q, 2.0) == pytest.approx(math.log(0.25 / 0.25 + 0.25 / 0.75))
    assert renyi.divergence(np.array([0.0, -np.inf]), np.log([0.5, 0.5]), 2.0) == pytest.approx(math.log(2))
    assert renyi.divergence(np.log([0.5, 0.5]), np.array([0.0, -np.inf]), 2.0) == math.inf
    assert renyi.range_of(np.log([0.5, 0.5]), np.array([0.0, -np.inf])) == math.inf
    # Randomised response with odds e^(eta / 2) has range eta, and order infinity is its log-odds.
    assert renyi.supremum(0.5, 1.0001) == pytest.approx(0.5**2 / 8, rel=5e-3)
    assert renyi.supremum(0.5, 1e4) == pytest.approx(0.5, rel=1e-2)
