"""Plans of counts, votes and words: what they cost, what they refuse, and that a stored one cannot be altered."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdrouter.errors import InvalidParameter
from privacy.dp import accounting, curves
from privacy.dp.cohort_plans import (
    ChoicePlan,
    CountPlan,
    KeywordsPlan,
    plan_choice,
    plan_count,
    plan_keywords,
    plan_of,
)
from privacy.dp.text_plan import plan_text

epsilons = st.floats(0.01, 10)
DELTA = 1e-5


@settings(deadline=None, max_examples=60)
@given(epsilons)
def test_no_plan_costs_more_than_it_claims(epsilon: float) -> None:
    count = plan_count(epsilon=epsilon)
    assert (pure := count.event.mechanism.pure) is not None and pure <= epsilon
    for plan in (plan_choice(options=4, epsilon=epsilon), plan_keywords(epsilon=epsilon)):
        rho = plan.event.mechanism.rho
        assert rho is not None and accounting.epsilon_of_rho(rho, plan.delta) <= epsilon
        assert curves.epsilon_of_divergences(curves.divergences(plan.event), plan.delta) <= epsilon * (1 + 1e-9)


@settings(deadline=None, max_examples=30)
@given(epsilons)
def test_a_stored_plan_is_read_back(epsilon: float) -> None:
    for plan in (
        plan_count(epsilon=epsilon),
        plan_choice(options=3, epsilon=epsilon),
        plan_keywords(epsilon=epsilon, picks=2),
    ):
        assert plan_of(json.loads(json.dumps(plan.to_event()))) == plan


def test_a_texts_plan_is_read_back_too() -> None:
    plan = plan_text(epsilon=3.0)
    assert plan_of(json.loads(json.dumps(plan.to_event()))) == plan


@pytest.mark.parametrize("plan", [plan_count(), plan_choice(options=3), plan_keywords()], ids=lambda plan: plan.name)
def test_an_altered_plan_is_refused(plan: CountPlan | ChoicePlan | KeywordsPlan) -> None:
    stored = plan.to_event()
    for name, value in stored.items():
        if name in ("options", "terms"):  # neither is part of what it costs: this is another plan, and a valid one
            continue
        changed: Any = f"{value}x" if isinstance(value, str) else value + 1
        with pytest.raises(InvalidParameter):
            plan_of(stored | {name: changed})
        with pytest.raises(InvalidParameter):
            plan_of({key: kept for key, kept in stored.items() if key != name})
    with pytest.raises(InvalidParameter):
        plan_of(stored | {"note": "more"})


def test_half_the_noise_would_cost_more_than_is_claimed() -> None:
    count, choice, words = plan_count(epsilon=1.0), plan_choice(options=3, epsilon=1.0), plan_keywords(epsilon=1.0)
    assert CountPlan(1.0, count.scale / 2, 0).event.mechanism.pure == pytest.approx(2.0)
    weaker = ChoicePlan(1.0, DELTA, 3, choice.sigma / 2, 0).event.mechanism.rho
    assert weaker is not None and accounting.epsilon_of_rho(weaker, DELTA) > 1.9
    assert accounting.epsilon_of_rho(KeywordsPlan(1.0, DELTA, 4, words.scale / 2, "x").rho, DELTA) > 1.9


def test_closed_forms() -> None:
    assert plan_count(epsilon=0.5).scale == pytest.approx(2.0)
    # replace-one votes: rho = 1 / sigma^2; epsilon 1 needs sigma 5.7, epsilon 3 sigma 2.1
    assert plan_choice(options=2, epsilon=1.0).sigma == pytest.approx(5.7, abs=0.05)
    assert plan_choice(options=2, epsilon=3.0).sigma == pytest.approx(2.1, abs=0.05)
    words = plan_keywords(epsilon=1.0, picks=4)
    assert words.rho == pytest.approx(4 * (2 / words.scale) ** 2 / 8)
    assert words.nano_at(3.4) == pytest.approx(3.4 * words.rho * 1e9, rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0])
def test_the_noise_stays_within_the_band_as_often_as_is_said(epsilon: float) -> None:
    count, choice = plan_count(epsilon=epsilon), plan_choice(options=2, epsilon=epsilon)
    for plan in (count, choice):
        noise = [value for _ in range(200) for value in plan.noise.release([0] * 20)]
        outside = sum(abs(value) > plan.band for value in noise) / len(noise)
        assert outside < 0.05 + 4 * math.sqrt(0.05 * 0.95 / len(noise))
        assert any(noise)


def test_no_two_releases_share_their_noise() -> None:
    plan = plan_choice(options=2, epsilon=0.1)
    assert len({tuple(plan.noise.release([0] * 4)) for _ in range(20)}) == 20


def test_words_that_nearly_all_hold_are_drawn_and_the_odd_one_hardly_ever() -> None:
    plan = plan_keywords(epsilon=1.0, picks=2)
    votes = [100, 95, 1] + [0] * 200
    drawn = [index for _ in range(200) for index in plan.selection.choose(votes)]
    assert drawn.count(0) > 190 and drawn.count(1) > 190 and drawn.count(2) < 10


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"epsilon": 1e308}, "epsilon"),
        ({"epsilon": 0.009}, "epsilon"),
        ({"epsilon": True}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1e-3}, "delta"),
        ({"options": 1}, "options"),
        ({"options": 13}, "options"),
        ({"options": True}, "options"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        plan_choice(**({"options": 3} | values))
    assert refused.value.details["field"] == field


@pytest.mark.parametrize("picks", [0, 9, 1.5, True])
def test_too_many_or_too_few_picks_are_refused(picks: Any) -> None:
    with pytest.raises(InvalidParameter):
        plan_keywords(picks=picks)
