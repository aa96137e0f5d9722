"""A text of several hospitals: its plan, its sums, its candidates and its draw, each against the group of one."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fdrouter.errors import InvalidParameter, PushTooSmall
from privacy.dp import across_text
from privacy.dp.across_text import LEAST_SLOTS, MOST_CANDIDATES, TextAcrossPlan, plan_text_across
from privacy.dp.cohort_plans import plan_of
from privacy.dp.decoding import UNITS, Floats, log_law, renyi_divergence
from privacy.dp.text_plan import plan_text

PLAN = plan_text_across(hospitals=3, epsilon=3.0, contexts=96, max_tokens=8)
WIDTH = 40


def rows(count: int, seed: int = 1) -> Floats:
    """Log-probabilities at some candidates; the differences reach past the clip on both sides."""
    found: Floats = -np.abs(np.random.default_rng(seed).normal(8, 6, (count, WIDTH)))
    return found


def stored(plan: TextAcrossPlan, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(plan.to_event() | changes))
    return found


# --- the plan ---------------------------------------------------------------------------------------------------------
def test_the_plan_costs_what_one_hospital_would_take_for_as_many_slots() -> None:
    alone = plan_text(epsilon=3.0, contexts=96, max_tokens=8)
    for name in ("clip", "tau", "push", "rho_per_token", "rho"):
        assert getattr(PLAN, name) == getattr(alone, name)
    assert PLAN.rho_per_token == pytest.approx(2 * (PLAN.clip / (PLAN.contexts * PLAN.tau)) ** 2)
    assert PLAN.nano_at(3.4) == alone.nano_at(3.4)


def test_the_drawing_costs_no_more_than_planned() -> None:
    assert PLAN.mechanism.reach == 2
    assert PLAN.rho_per_token * (1 - 1e-6) < PLAN.mechanism.rho <= PLAN.rho_per_token


@pytest.mark.parametrize(("hospitals", "slots"), [(2, 48), (3, 32), (5, 19), (6, 16)])
def test_the_slots_are_shared_out_and_never_more_than_there_are(hospitals: int, slots: int) -> None:
    plan = plan_text_across(hospitals=hospitals, contexts=96, max_tokens=8)
    assert plan.slots == slots and plan.slots * hospitals <= plan.contexts


def test_several_hospitals_can_pay_for_what_one_cannot() -> None:
    with pytest.raises(PushTooSmall):
        plan_text(epsilon=0.5, max_tokens=16)
    plan = plan_text_across(hospitals=3, epsilon=0.5, max_tokens=16)
    assert 128 < plan.contexts <= 3 * 128 and plan.push >= 6 and plan.slots <= 128


def test_no_more_slots_are_taken_than_are_needed() -> None:
    assert plan_text_across(hospitals=4, epsilon=10.0).contexts == 64
    assert plan_text_across(hospitals=8, epsilon=10.0).contexts == 8 * LEAST_SLOTS == 128
    assert plan_text_across(hospitals=9, epsilon=10.0).contexts == 160
    assert plan_text_across(hospitals=2, epsilon=3.0).contexts == 160


def test_too_little_push_is_refused_with_slots_that_hospitals_have() -> None:
    with pytest.raises(PushTooSmall) as refused:
        plan_text_across(hospitals=2, epsilon=1.0, contexts=64, max_tokens=24)
    assert {"contexts": 238} in refused.value.details["try"]


@pytest.mark.parametrize(
    "values",
    [
        {"hospitals": 1},
        {"hospitals": 33},
        {"hospitals": 2.0},
        {"hospitals": True},
        {"hospitals": 2, "contexts": 257},
        {"hospitals": 8, "contexts": 7},
        {"hospitals": 2, "top_k": 129},
        {"hospitals": 2, "epsilon": 11.0},
        {"hospitals": 2, "max_tokens": 97},
        {"hospitals": 2, "delta": 0.1},
        {"hospitals": 2, "tau": 0.01},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        plan_text_across(**values)


def test_the_record_of_a_plan_is_read_back() -> None:
    assert plan_of(stored(PLAN)) == PLAN
    assert stored(PLAN)["mechanism"] == PLAN.name == "text_across"
    assert "coordinator" in PLAN.parameters["trusted"] and PLAN.parameters["slots"] == 32


@pytest.mark.parametrize(
    "changes",
    [{"hospitals": 2}, {"hospitals": 1}, {"clip": 1.0}, {"rho_per_token": 1e-9}, {"mechanism": "count_across"}],
)
def test_an_altered_record_is_refused(changes: dict[str, Any]) -> None:
    event = stored(PLAN, **changes)
    if changes == {"hospitals": 2}:
        event["contexts"] = 300
    with pytest.raises(InvalidParameter):
        plan_of(event)


# --- the sum ----------------------------------------------------------------------------------------------------------
def test_the_sums_of_hospitals_are_the_sum_over_all_of_their_patients() -> None:
    public, private = rows(1)[0], rows(96, seed=2)
    parts = [private[:32], private[32:50], private[50:82]]
    sums = [across_text.summed(PLAN, public, part) for part in parts]
    everybody = PLAN.mechanism.parts(public, private[:82]).sum(axis=0)
    assert across_text.total(PLAN, WIDTH, sums).tolist() == everybody.tolist()
    assert any(abs(value) > UNITS for value in sums[0]), "patients do not cancel in this test"


def test_a_hospital_without_patients_adds_nothing() -> None:
    assert across_text.summed(PLAN, rows(1)[0], np.empty((0, WIDTH))) == [0] * WIDTH
    assert across_text.total(PLAN, WIDTH, []).tolist() == [0] * WIDTH


def test_a_hospital_cannot_fill_more_than_its_slots() -> None:
    with pytest.raises(InvalidParameter):
        across_text.summed(PLAN, rows(1)[0], rows(33))


@pytest.mark.parametrize(
    "numbers",
    [[0] * (WIDTH - 1), [0] * (WIDTH - 1) + [32 * UNITS + 1], [0] * (WIDTH - 1) + [-32 * UNITS - 1],
     [0.0] * WIDTH, [True] * WIDTH, ["0"] * WIDTH, [None] * WIDTH],
    ids=["short", "large", "small", "floats", "truth", "text", "none"],
)  # fmt: skip
def test_what_no_hospital_can_have_summed_is_refused(numbers: list[Any]) -> None:
    with pytest.raises(ValueError, match="sums"):
        across_text.total(PLAN, WIDTH, [numbers])


def test_more_hospitals_than_planned_are_refused() -> None:
    with pytest.raises(ValueError, match="hospitals"):
        across_text.total(PLAN, WIDTH, [[0] * WIDTH] * 4)


# --- what a patient moves ---------------------------------------------------------------------------------------------
Law = npt.NDArray[np.float64]


def law(sums: list[list[int]], public: Floats, plan: TextAcrossPlan = PLAN) -> Law:
    scores = plan.mechanism.scores(public, across_text.total(plan, len(public), sums))
    return log_law(scores, plan.mechanism.scale)


def apart(p: Law, q: Law, alpha: float = 3.4) -> float:
    return max(renyi_divergence(p, q, alpha), renyi_divergence(q, p, alpha))


def extreme(width: int, likely: int, sign: float) -> Floats:
    """A record that pushes one half of the candidates as far as the clip lets it, and the other half the other way."""
    row = np.full(width, -sign * 1e3)
    row[:likely] = sign * 1e3
    return row


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("alpha", [1.5, 3.4, 18.0])
def test_another_record_in_a_slot_moves_the_law_of_a_token_by_no_more_than_it_costs(seed: int, alpha: float) -> None:
    public, ours, theirs = rows(1, seed)[0], rows(32, seed + 10), rows(32, seed + 20)
    before = [across_text.summed(PLAN, public, ours), across_text.summed(PLAN, public, theirs)]
    for record in (rows(1, seed + 30)[0], extreme(WIDTH, 7, 1.0), extreme(WIDTH, 20, -1.0), np.full(WIDTH, np.nan)):
        theirs[5] = record
        after = [before[0], across_text.summed(PLAN, public, theirs)]
        assert apart(law(before, public), law(after, public), alpha) <= alpha * PLAN.rho_per_token


def test_the_cost_is_what_the_worst_record_takes_and_a_patient_at_two_hospitals_takes_four_times_that() -> None:
    """Two candidates, equally likely: small steps of one temperature. Twice as far is four times the divergence."""
    plan = plan_text_across(hospitals=3, epsilon=0.5, contexts=384, max_tokens=8)
    public, alpha, cost = np.log(np.array([0.5, 0.5])), 3.4, 3.4 * plan.rho_per_token
    mild, wild = extreme(2, 1, -1.0)[None], extreme(2, 1, 1.0)[None]
    low, high = (across_text.summed(plan, public, row) for row in (mild, wild))
    at_one, at_two = (apart(law([low] * m, public, plan), law([high] * m, public, plan), alpha) for m in (1, 2))
    assert 0.9 * cost < at_one <= cost < 3.8 * cost < at_two <= 4 * cost


def test_a_hospital_that_has_left_counts_as_no_difference_and_nobody_is_heard_louder_for_it() -> None:
    public, ours = rows(1)[0], rows(32, 5)
    alone = law([across_text.summed(PLAN, public, ours)], public)
    empty = across_text.summed(PLAN, public, np.tile(public, (32, 1)))
    assert np.array_equal(alone, law([across_text.summed(PLAN, public, ours), empty, empty], public))
    with pytest.raises(InvalidParameter, match="more than planned"):
        _ = replace(PLAN, contexts=64).mechanism  # dividing by the slots of those who are left


def test_tokens_are_drawn_by_the_law() -> None:
    public, sums = np.log(np.array([0.7, 0.2, 0.1])), [[0, 40 * UNITS // 2, 0]]
    expected = np.exp(law([[0, 20 * UNITS, 0]], public))
    drawn = Counter(across_text.draw(PLAN, [7, 8, 9], public, sums) for _ in range(4000))
    assert set(drawn) <= {7, 8, 9}
    for token, share in zip((7, 8, 9), expected, strict=True):
        assert abs(drawn[token] / 4000 - share) < 5 * math.sqrt(share * (1 - share) / 4000) + 1e-3


# --- candidates -------------------------------------------------------------------------------------------------------
def test_candidates_are_the_likeliest_of_the_public_row_with_a_band_below() -> None:
    plan = plan_text_across(hospitals=2, contexts=64, max_tokens=4, top_k=10)
    band = 2 * plan.clip / plan.contexts
    public = [-1.0] * 9 + [-2.0, -2.0 - band * 0.9, -2.0 - band * 1.1]
    ids, values = across_text.candidates(plan, list(range(50, 62)), public)
    assert ids == list(range(50, 61)) and values.tolist() == public[:11]


def test_never_more_candidates_than_an_engine_answers_for() -> None:
    ids, values = across_text.candidates(PLAN, list(range(500)), [-0.001 * n for n in range(500)])
    assert ids == list(range(MOST_CANDIDATES)) and len(values) == MOST_CANDIDATES


def test_which_tokens_are_candidates_does_not_depend_on_their_order() -> None:
    ids, public = [4, 9, 2, 7], [-3.0, -1.0, -1.0, -2.0]
    found, values = across_text.candidates(PLAN, ids, public)
    again, _ = across_text.candidates(PLAN, ids[::-1], public[::-1])
    assert found == again == [2, 9, 7, 4] and values.tolist() == [-1.0, -1.0, -2.0, -3.0]


@pytest.mark.parametrize(
    ("ids", "public"),
    [([], []), ([1, 1], [-1.0, -1.0]), ([1], [-1.0, -2.0]), ([-1], [-1.0]), ([True], [-1.0]), ([1.0], [-1.0]),
     ([1, 2], [-1.0, math.nan]), ([1, 2], [-1.0, -math.inf])],
)  # fmt: skip
def test_what_is_no_public_row_is_refused(ids: list[Any], public: list[float]) -> None:
    with pytest.raises(ValueError, match="row|log"):
        across_text.candidates(PLAN, ids, public)


def test_no_hospital_fills_the_sums_with_few_patients() -> None:
    """The coordinator sees them without noise."""
    with pytest.raises(InvalidParameter, match="contexts"):
        plan_text_across(hospitals=12, epsilon=10.0, contexts=12, max_tokens=4)
    with pytest.raises(InvalidParameter, match="contexts"):
        plan_text_across(hospitals=4, epsilon=10.0, contexts=4 * LEAST_SLOTS - 1, max_tokens=4)
    assert plan_text_across(hospitals=4, epsilon=10.0, contexts=4 * LEAST_SLOTS, max_tokens=4).slots == LEAST_SLOTS
